"""Draw what a trained model finds in images: ``python tools/demo.py IMAGE_OR_FOLDER CONFIG CHECKPOINT``.

For detectors and classifiers. Leaves pictures in OUT_DIR/vis and predictions in OUT_DIR/preds, a json file for
each image.
"""

from __future__ import annotations

import argparse
import os.path as osp
import sys

sys.path.insert(0, osp.dirname(osp.dirname(osp.abspath(__file__))))

import resist_mm
from resist_mm.checkpoint import CheckpointError, load_safely
from resist_mm.config_values import check_has_model
from resist_mm.convert import Options, read_config
from resist_mm.inference.safe import images_of
from resist_mm.launch import end_with, quiet_libraries


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('images', metavar='IMAGE_OR_FOLDER', help='an image, or a folder of images')
    parser.add_argument('config', help='config file: the one in the work dir')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--out-dir', default='demo', help='default: demo')
    parser.add_argument('--score-thr', type=float, default=0.3, help='least score of a drawn box; default: 0.3')
    parser.add_argument('--topk', type=int, default=5, help='number of classes of a classified image; default: 5')
    parser.add_argument('--batch-size', type=int, default=1, help='images at a time; default: 1')
    parser.add_argument('--device', help='such as cpu or cuda:1; default: a GPU if there is one')
    parser.add_argument('--show', action='store_true', help='show the pictures in a window')
    parser.add_argument(
        '--trust-checkpoint', action='store_true', help='load the checkpoint even if it can run code'
    )
    parser.add_argument('--cfg-options', nargs='+', action=Options, help='change the config: KEY=VALUE ...')
    args = parser.parse_args()
    for name in ('batch_size', 'topk'):
        if getattr(args, name) < 1:
            parser.error(f'--{name.replace("_", "-")} must be at least 1, got {getattr(args, name)}')
    return args


def main() -> None:
    """Draw, and write the predictions."""
    quiet_libraries()
    args = parse_args()
    load_safely(args.trust_checkpoint)  # also what the model may load when it is built
    try:
        images = images_of(args.images)
        cfg = read_config(args.config, args.cfg_options)
        check_has_model(cfg)
        is_detector = cfg.get('default_scope') == 'mmdet'
        inferencer_class = resist_mm.DetInferencer if is_detector else resist_mm.ImageClassificationInferencer
        inferencer = inferencer_class(
            cfg, args.checkpoint, args.device, trust_checkpoint=args.trust_checkpoint, show_progress=False
        )
        chosen = dict(no_save_pred=False, pred_score_thr=args.score_thr) if is_detector else dict(topk=args.topk)
        inferencer(images, batch_size=args.batch_size, out_dir=args.out_dir, show=args.show, **chosen)
    except (CheckpointError, FileNotFoundError, ValueError) as error:
        end_with(error)
    print(f'{len(images)} image(s): pictures in {osp.join(args.out_dir, "vis")}, predictions in ', end='')
    print(osp.join(args.out_dir, 'preds'))


if __name__ == '__main__':
    main()
