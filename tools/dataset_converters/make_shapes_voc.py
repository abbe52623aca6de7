"""Write the synthetic detection set in VOC layout into a folder; needs no download.

Example:
    python tools/dataset_converters/make_shapes_voc.py data/shapes --train 400 --test 100
"""

import argparse
import sys

from resist_mm.datasets import make_shapes_voc


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('out_dir', help='the set is written into OUT_DIR/Shapes')
    parser.add_argument('--train', type=int, default=400, help='number of training images (default: 400)')
    parser.add_argument('--test', type=int, default=100, help='number of test images (default: 100)')
    parser.add_argument('--size', type=int, default=160, help='side of an image in pixels (default: 160)')
    parser.add_argument('--seed', type=int, default=0, help='seed of all images (default: 0)')
    parser.add_argument(
        '--rare', metavar='CLASS', help='make this class rare and small: one object in ten, 10 to 16 pixels'
    )
    return parser.parse_args()


def main() -> None:
    """Write the set, or print in one line why that failed."""
    args = parse_args()
    try:
        folder = make_shapes_voc(args.out_dir, args.train, args.test, args.size, args.seed, args.rare)
    except (ValueError, OSError) as error:
        sys.exit(f'make_shapes_voc: {error}')
    print(f'{folder}: {args.train} images to train, {args.test} to test')


if __name__ == '__main__':
    main()
