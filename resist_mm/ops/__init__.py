"""mmcv's ops without compiling: those that detectors need, computed by torchvision and torch, on CPU and GPU.

mmdet imports ``mmcv.ops``, which imports the compiled module ``mmcv._ext``. Where that module is missing,
``stand_in`` answers for it, with the functions of the files beside it. They have the arguments of mmcv's C++
functions (``mmcv/ops/csrc/pytorch/pybind.cpp``) and write into the same output tensors, so that everything above
them in mmcv stays mmcv's. Compiled ops are always preferred.

This package imports nothing else of ``resist_mm``, and no torch before the first op is called.
"""
