//! How prototypes of one class are found.

use serde::{Deserialize, Serialize};

use super::seeding::Seeding;
use crate::loss::{DiversityScale, LossConfig, LossWeights};
use crate::window::WindowRule;
use crate::{Error, Result, Similarity};

/// What prototypes learn where the images have one class: readings of Dey & Saikia 2025.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Training {
    /// What the paper's equations leave of its losses: alignment (Eq. 6) and diversity (Eq. 8), with
    /// pushes in between,
    ///
    /// L = `align` · Σⱼ min ‖pⱼ − f‖² + `diversity` · 1/(P − 1) · Σ_{i≠j} exp(−‖pᵢ − pⱼ‖²).
    ///
    /// Both are then sums over the prototypes of numbers that do not grow with P. The paper gives no
    /// weights; Eq. 8 as it stands is `diversity` = P − 1, which drives a hundred prototypes away from
    /// all patches.
    AlignDiv {
        /// The weight of Eq. 6, over the images of a step.
        align: f64,
        /// The weight of Eq. 8 divided by P − 1.
        diversity: f64,
        /// How Eq. 8 counts distances.
        scale: DiversityScale,
    },
    /// The paper's released code: k-means of the features (m = 100 there), whose centres are the
    /// prototypes. Nothing else is learnt and nothing is pushed, so that a prototype is a mean of
    /// patches and none of them; its nearest patch is reported beside it. The released score is the
    /// mean of the largest influence of each image.
    ReleasedKMeans {
        /// Most iterations.
        iterations: usize,
    },
    /// Clusters as classes, so that the paper's ProtoPNet can be trained as published: images are
    /// clustered by k-means of their mean features, and prototypes of each cluster learn by
    /// cross-entropy, cluster and separation cost.
    ClusterClasses {
        /// How many clusters.
        classes: usize,
    },
    /// Classes that are given with the images ([`Batch::classes`](crate::Batch::classes)), such as bins
    /// of the slice's place in the body; otherwise as [`ClusterClasses`](Self::ClusterClasses).
    SliceBins,
    /// Real images (class 0) against generated ones (class 1); otherwise as
    /// [`ClusterClasses`](Self::ClusterClasses). The prototypes tell what gives a generated image away,
    /// which is another question than what it draws on.
    RealVsGenerated,
    /// Two views of each image, under two noises or augmentations, shall have the same influences q:
    /// the loss is `agreement` · mean(−ln Σⱼ qⱼ(a) qⱼ(b)), as the views of Nauta et al. 2023 (PIP-Net)
    /// are aligned, beside those of [`AlignDiv`](Self::AlignDiv). The second view comes from
    /// [`SingleClass::second_view`](super::SingleClass::second_view).
    SelfSup {
        /// The weight of the agreement.
        agreement: f64,
        /// As in [`AlignDiv`](Self::AlignDiv).
        align: f64,
        /// As in [`AlignDiv`](Self::AlignDiv).
        diversity: f64,
    },
}

impl Default for Training {
    /// Alignment and diversity, of weight 1 each.
    fn default() -> Self {
        Training::AlignDiv { align: 1.0, diversity: 1.0, scale: DiversityScale::Plain }
    }
}

impl Training {
    /// What the trainer learns by, where it is asked.
    pub(super) fn losses(&self, prototypes: usize) -> LossConfig {
        let others = (prototypes.max(2) - 1) as f64;
        let one_class = |align, diversity| LossWeights { align, diversity, ..LossWeights::default() };
        match *self {
            Training::AlignDiv { align, diversity, scale } => {
                LossConfig { diversity: scale, ..LossConfig::new(one_class(align, diversity / others)) }
            }
            Training::SelfSup { align, diversity, .. } => {
                LossConfig::new(one_class(align, diversity / others))
            }
            // The last layer stays at its published start, so that its L1 term is a constant.
            _ => LossConfig::new(LossWeights { l1: 0.0, ..LossWeights::ppnet() }),
        }
    }
}

/// Options of [`SingleClass`](super::SingleClass).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SingleClassConfig {
    /// m, how many prototypes.
    pub prototypes: usize,
    /// What they learn.
    pub training: Training,
    /// How alike a patch and a prototype are.
    pub similarity: Similarity,
    /// Where they start.
    pub seeding: Seeding,
    /// Most patches that a start is drawn from; they are a uniform sample where there are more.
    pub seeding_patches: usize,
    /// Passes through the images.
    pub epochs: usize,
    /// Epochs between two pushes; 0 for one push at the end alone.
    pub push_every: usize,
    /// The learning rate of Adam.
    pub lr: f64,
    /// Images of a step, X of Eq. 6. They are drawn anew for each epoch where features are kept;
    /// otherwise a step has the images of a batch as it comes.
    pub images_per_step: usize,
    /// Whether every prototype is pushed to a patch of its own.
    pub distinct: bool,
    /// Which pixels stand for a patch.
    pub window: WindowRule,
    /// Most bytes of features that are kept in memory; where they would be more, the images go through
    /// the extractor again in every pass.
    pub budget: usize,
    /// The seed.
    pub seed: u64,
}

impl Default for SingleClassConfig {
    /// 20 prototypes by alignment and diversity under the paper's linear similarity, in 60 epochs with a
    /// push after every 20; 2 GiB of features.
    fn default() -> Self {
        Self {
            prototypes: 20,
            training: Training::default(),
            similarity: Similarity::Linear,
            seeding: Seeding::default(),
            seeding_patches: 20_000,
            epochs: 60,
            push_every: 20,
            lr: 3e-3,
            images_per_step: 32,
            distinct: true,
            window: WindowRule::default(),
            budget: 2 << 30,
            seed: 0,
        }
    }
}

impl SingleClassConfig {
    /// Checks the values.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field.
    pub fn validate(&self) -> Result<()> {
        for (field, value) in [
            ("prototypes", self.prototypes),
            ("seeding_patches", self.seeding_patches),
            ("epochs", self.epochs),
            ("images_per_step", self.images_per_step),
        ] {
            if value == 0 {
                return Err(Error::config(field, "is 0, must be at least 1"));
            }
        }
        self.similarity.validate()?;
        self.window.validate()?;
        if self.seeding_patches < self.prototypes {
            let reason = format!("are {}, fewer than {} prototypes", self.seeding_patches, self.prototypes);
            return Err(Error::config("seeding_patches", reason));
        }
        if !(self.lr > 0.0 && self.lr.is_finite()) {
            return Err(Error::config("lr", format!("is {}, must be positive and finite", self.lr)));
        }
        match self.training {
            Training::ReleasedKMeans { iterations: 0 } => {
                Err(Error::config("iterations", "is 0, must be at least 1"))
            }
            Training::ClusterClasses { classes } if classes < 2 || classes > self.prototypes => {
                let reason = format!("are {classes}: give 2 or more, and a prototype for each");
                Err(Error::config("classes", reason))
            }
            Training::SelfSup { agreement, .. } if !(agreement > 0.0 && agreement.is_finite()) => {
                Err(Error::config("agreement", format!("is {agreement}, must be positive and finite")))
            }
            Training::ReleasedKMeans { .. } => Ok(()),
            _ => self.training.losses(self.prototypes).validate(),
        }
    }
}
