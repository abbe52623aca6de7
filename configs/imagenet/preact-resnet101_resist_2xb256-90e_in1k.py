# ImageNet, ResIST, 2 workers (Tables 3 and 5): top-1 71.60%, 36.79 hours on V100s. All but the number of
# workers, which the command line gives, is as with four; there are 11,340 rounds.
_base_ = './preact-resnet101_resist_4xb256-90e_in1k.py'
