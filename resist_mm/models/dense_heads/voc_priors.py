"""The priors of YOLOv2 for Pascal VOC."""

# The five priors of YOLOv2 for VOC, in cells of 32 pixels (YOLO9000, section 2, "Dimension Clusters").
VOC_PRIORS = (
    (1.3221, 1.73145),
    (3.19275, 4.00944),
    (5.05587, 8.09892),
    (9.47112, 4.84053),
    (11.2364, 10.0071),
)
VOC_ANCHOR_GENERATOR = {
    'type': 'mmdet.YOLOAnchorGenerator',
    'strides': [32],
    'base_sizes': [[(32 * width, 32 * height) for width, height in VOC_PRIORS]],
}
