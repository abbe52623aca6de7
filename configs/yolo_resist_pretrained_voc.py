# YOLOv2 on Pascal VOC under ResIST, from torchvision's ImageNet weights of ResNet-101:
#
#   tools/dist_train.sh configs/yolo_resist_pretrained_voc.py 4
#
# The weights are downloaded in the first run. They were trained with all blocks at full scale, so the first rounds,
# with only a share of the blocks, lose some of their accuracy.
_base_ = './yolo_resist_voc.py'
model = dict(backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet101')))
optim_wrapper = dict(optimizer=dict(lr=1e-4))
