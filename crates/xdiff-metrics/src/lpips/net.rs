//! The three networks that LPIPS is published for.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The network whose features are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LpipsNet {
    /// AlexNet, which the authors recommend as a metric.
    Alex,
    /// VGG16, which they recommend as a loss.
    Vgg,
    /// SqueezeNet 1.1, the smallest.
    Squeeze,
}

impl LpipsNet {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Alex, Self::Vgg, Self::Squeeze];

    /// The name that the authors' package uses.
    pub fn name(self) -> &'static str {
        match self {
            Self::Alex => "alex",
            Self::Vgg => "vgg",
            Self::Squeeze => "squeeze",
        }
    }

    /// torchvision's name of the network.
    pub fn architecture(self) -> &'static str {
        match self {
            Self::Alex => "alexnet",
            Self::Vgg => "vgg16",
            Self::Squeeze => "squeezenet1_1",
        }
    }

    /// The modules whose outputs are compared, and their channels.
    pub fn sites(self) -> &'static [(&'static str, usize)] {
        match self {
            Self::Alex => &[
                ("features.1", 64),
                ("features.4", 192),
                ("features.7", 384),
                ("features.9", 256),
                ("features.11", 256),
            ],
            Self::Vgg => &[
                ("features.3", 64),
                ("features.8", 128),
                ("features.15", 256),
                ("features.22", 512),
                ("features.29", 512),
            ],
            Self::Squeeze => &[
                ("features.1", 64),
                ("features.4", 128),
                ("features.7", 256),
                ("features.9", 384),
                ("features.10", 384),
                ("features.11", 512),
                ("features.12", 512),
            ],
        }
    }

    /// The shortest side of an image from which the last of these modules has an output.
    pub fn min_side(self) -> usize {
        match self {
            Self::Alex => 31,
            Self::Vgg => 16,
            Self::Squeeze => 17,
        }
    }

    /// Whether an extractor's identity says that it is this network as torchvision trained it on
    /// ImageNet: `alexnet (sha256 7be5be79…)` after torchvision's file, or `alexnet (ImageNet…)` after
    /// the word of whoever named the weights. A first convolution that was changed to other channels
    /// is another network.
    pub fn is_imagenet(self, identity: &str) -> bool {
        let hash = match self {
            Self::Alex => "sha256 7be5be79",
            Self::Vgg => "sha256 397923af",
            Self::Squeeze => "sha256 b8a52dc0",
        };
        identity
            .strip_prefix(self.architecture())
            .and_then(|rest| rest.strip_prefix(" ("))
            .is_some_and(|weights| weights.starts_with("ImageNet") || weights.starts_with(hash))
            && !identity.contains(" channels by the ")
    }

    /// The sum of each published head's weights, by which the heads are recognised.
    pub(super) fn published_sums(self) -> &'static [f64] {
        match self {
            Self::Alex => &[2.3495323, 16.1430275, 39.2684392, 27.1971784, 20.3171771],
            Self::Vgg => &[6.9259917, 8.8583340, 17.5150060, 51.5213230, 47.0348538],
            Self::Squeeze => {
                &[5.6901008, 1.1852795, 16.3265654, 71.0126241, 37.3707232, 24.2628724, 17.5905528]
            }
        }
    }
}

impl fmt::Display for LpipsNet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
