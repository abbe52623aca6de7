# ImageNet, local SGD, 2 workers (Tables 3 and 5): top-1 73.32%, 48.61 hours on V100s. All but the number of
# workers, which the command line gives, is as with four; there are 11,340 rounds.
_base_ = './preact-resnet101_local-sgd_4xb256-90e_in1k.py'
