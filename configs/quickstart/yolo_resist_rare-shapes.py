# The quickstart's detector on images where one class, the star, is rare and small: one object in ten, 10 to 16 pixels.
#
#   python tools/dataset_converters/make_shapes_voc.py data/rare_shapes --size 128 --train 400 --test 300 --rare star
#   tools/dist_train.sh configs/quickstart/yolo_resist_rare-shapes.py 2
#
# docs/detection.md has the average precision of each class with loss='bce', as here, and loss='squared'.
_base_ = './yolo_resist_shapes.py'
data_root = '{{$RESIST_MM_RARE_SHAPES:data/rare_shapes/}}'
model = dict(bbox_head=dict(anchor_generator=dict(base_sizes=[[(13, 13), (32, 32), (45, 45), (60, 60)]])))
train_dataloader = dict(dataset=dict(data_root=data_root))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = dict(dataset=dict(data_root=data_root))
train_cfg = dict(val_interval=10)
default_hooks = dict(
    checkpoint=dict(interval=5, max_keep_ckpts=1),
    cpu_seconds=dict(type='resist_mm.CPUSecondsHook'),
)
