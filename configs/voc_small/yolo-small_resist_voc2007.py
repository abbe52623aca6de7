# YOLOv2 under ResIST on 2,000 pictures of VOC2007 (Table 6 in small). RESIST_MM_VOC is a VOCdevkit of which
# VOC2007/ImageSets/Main/trainval.txt and test.txt name the pictures to train on and those to test on.
#
#   tools/dist_train.sh configs/voc_small/yolo-small_resist_voc2007.py 4
#
# python tools/analysis_tools/reproduce.py voc runs it, and what it is compared with; the results go to docs/results/voc.
_base_ = ['../_base_/yolo_voc2007_small.py', '../_base_/protocols/resist.py']
custom_hooks = [dict(type='resist_mm.ResISTHook', local_iters=50, min_blocks=3)]
