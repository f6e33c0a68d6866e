//! The five kinds of blocks that Inception v3 is made of, by torchvision's names.

use xdiff_nn::Params;
use xdiff_nn::layers::Pool2d;

use crate::Result;
use crate::parts::{Mixed, Pooling, Step, UnitStyle, Window};

/// A kind of block.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// 1×1, 5×5, twice 3×3, and a projection of the pooled maps to this many channels.
    A(usize),
    /// Halves the size: 3×3, twice 3×3, and pooling.
    B,
    /// 1×1, 7×7 and twice 7×7 as rows and columns with this many channels between.
    C(usize),
    /// Halves the size: 3×3, 7×7 and 3×3, and pooling.
    D,
    /// 1×1, and 3×3 divided into a row and a column side by side.
    E,
}

/// The pooling by which the blocks that halve the size do so.
const HALVE: Step = Step::Pool(Pooling::Max(Pool2d::new(3, 2)), None);

const fn same(name: &'static str, channels: usize, kernel: (usize, usize)) -> Step {
    Step::Conv(Window::same(name, channels, kernel))
}

const fn one(name: &'static str, channels: usize) -> Step {
    same(name, channels, (1, 1))
}

/// A 3×3 window at every second position.
const fn halving(name: &'static str, channels: usize) -> Step {
    Step::Conv(Window::valid(name, channels, 3, 2))
}

impl Kind {
    /// A block of this kind; `pool` is the pooling of the kinds that keep the size.
    pub(super) fn build(
        self,
        inputs: usize,
        pool: Pooling,
        style: UnitStyle,
        params: &Params,
    ) -> Result<Mixed> {
        let pool = Step::Pool(pool, None);
        let of = |branches: &[&[Step]]| {
            let branches: Vec<_> = branches.iter().map(|steps| (None, *steps)).collect();
            Mixed::new(inputs, &branches, style, params)
        };
        match self {
            Self::A(projected) => of(&[
                &[one("branch1x1", 64)],
                &[one("branch5x5_1", 48), same("branch5x5_2", 64, (5, 5))],
                &[
                    one("branch3x3dbl_1", 64),
                    same("branch3x3dbl_2", 96, (3, 3)),
                    same("branch3x3dbl_3", 96, (3, 3)),
                ],
                &[pool, one("branch_pool", projected)],
            ]),
            Self::B => of(&[
                &[halving("branch3x3", 384)],
                &[
                    one("branch3x3dbl_1", 64),
                    same("branch3x3dbl_2", 96, (3, 3)),
                    halving("branch3x3dbl_3", 96),
                ],
                &[HALVE],
            ]),
            Self::C(between) => of(&[
                &[one("branch1x1", 192)],
                &[
                    one("branch7x7_1", between),
                    same("branch7x7_2", between, (1, 7)),
                    same("branch7x7_3", 192, (7, 1)),
                ],
                &[
                    one("branch7x7dbl_1", between),
                    same("branch7x7dbl_2", between, (7, 1)),
                    same("branch7x7dbl_3", between, (1, 7)),
                    same("branch7x7dbl_4", between, (7, 1)),
                    same("branch7x7dbl_5", 192, (1, 7)),
                ],
                &[pool, one("branch_pool", 192)],
            ]),
            Self::D => of(&[
                &[one("branch3x3_1", 192), halving("branch3x3_2", 320)],
                &[
                    one("branch7x7x3_1", 192),
                    same("branch7x7x3_2", 192, (1, 7)),
                    same("branch7x7x3_3", 192, (7, 1)),
                    halving("branch7x7x3_4", 192),
                ],
                &[HALVE],
            ]),
            Self::E => {
                let both = |row, column| {
                    Step::Fork([Window::same(row, 384, (1, 3)), Window::same(column, 384, (3, 1))])
                };
                of(&[
                    &[one("branch1x1", 320)],
                    &[one("branch3x3_1", 384), both("branch3x3_2a", "branch3x3_2b")],
                    &[
                        one("branch3x3dbl_1", 448),
                        same("branch3x3dbl_2", 384, (3, 3)),
                        both("branch3x3dbl_3a", "branch3x3dbl_3b"),
                    ],
                    &[pool, one("branch_pool", 192)],
                ])
            }
        }
    }
}
