//! The stages of a training, as data.

use serde::{Deserialize, Serialize};

use crate::loss::{LossConfig, LossWeights};
use crate::window::WindowRule;
use crate::{Error, Result};

/// A part of a prototype network that is trained, or left alone, as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// Where features come from.
    Features,
    /// The layers between features and prototypes.
    AddOn,
    /// The prototypes.
    Prototypes,
    /// What is learnt of which prototypes are whose: the logits of slots.
    Assignment,
    /// The last layer.
    Head,
}

impl Part {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Features, Self::AddOn, Self::Prototypes, Self::Assignment, Self::Head];

    /// The part that a parameter belongs to, by its published name; what no other part has belongs to the
    /// features.
    pub fn of(parameter: &str) -> Self {
        match parameter.split('.').next() {
            Some("add_on_layers") => Self::AddOn,
            Some("prototype_vectors") => Self::Prototypes,
            Some("proto_presence") => Self::Assignment,
            Some("last_layer") => Self::Head,
            _ => Self::Features,
        }
    }
}

/// How fast a part learns.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// The learning rate of Adam.
    pub lr: f64,
    /// λ: λ times the parameter is added to its gradient, as `weight_decay` of PyTorch's Adam does.
    #[serde(default)]
    pub l2: f64,
}

impl Rate {
    /// Without any pull towards 0.
    pub fn new(lr: f64) -> Self {
        Self { lr, l2: 0.0 }
    }

    /// With the pull of the released trainings, λ = 1e-3.
    fn decayed(lr: f64) -> Self {
        Self { lr, l2: 1e-3 }
    }
}

/// What is trained, and how fast; a part without a rate is left as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Parts {
    /// Of [`Part::Features`].
    pub features: Option<Rate>,
    /// Of [`Part::AddOn`].
    pub add_on: Option<Rate>,
    /// Of [`Part::Prototypes`].
    pub prototypes: Option<Rate>,
    /// Of [`Part::Assignment`].
    pub assignment: Option<Rate>,
    /// Of [`Part::Head`].
    pub head: Option<Rate>,
}

impl Parts {
    /// The rate of a part.
    pub fn of(&self, part: Part) -> Option<Rate> {
        match part {
            Part::Features => self.features,
            Part::AddOn => self.add_on,
            Part::Prototypes => self.prototypes,
            Part::Assignment => self.assignment,
            Part::Head => self.head,
        }
    }

    fn validate(&self) -> Result<()> {
        let rates: Vec<Rate> = Part::ALL.into_iter().filter_map(|part| self.of(part)).collect();
        if rates.is_empty() {
            return Err(Error::config("train", "names no part; give at least one a rate"));
        }
        for rate in rates {
            for (field, value) in [("lr", rate.lr), ("l2", rate.l2)] {
                if !(value.is_finite() && value >= 0.0) {
                    return Err(Error::config(field, format!("is {value}, must be finite and at least 0")));
                }
            }
        }
        Ok(())
    }
}

/// How all rates of a stage move, by the epochs that stages of its name have had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum RateDecay {
    /// The same throughout.
    #[default]
    Constant,
    /// Times `factor` after every `every` epochs.
    Step {
        /// Epochs between two changes.
        every: usize,
        /// By what the rates are multiplied.
        factor: f64,
    },
}

impl RateDecay {
    /// By what the rates are multiplied after `done` epochs.
    pub fn factor(&self, done: usize) -> f64 {
        match *self {
            Self::Constant => 1.0,
            Self::Step { every, factor } => factor.powf((done / every.max(1)) as f64),
        }
    }

    fn validate(&self) -> Result<()> {
        match *self {
            Self::Step { every: 0, .. } => Err(Error::config("every", "is 0, must be at least 1")),
            Self::Step { factor, .. } if !(factor.is_finite() && factor > 0.0) => {
                Err(Error::config("factor", format!("is {factor}, must be finite and above 0")))
            }
            _ => Ok(()),
        }
    }
}

/// What the normalisation layers of the features go by while a stage trains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Statistics {
    /// The statistics of each batch; the running ones follow, and dropout drops. The released trainings
    /// do so in all stages, so that features move a little even where no weight does.
    #[default]
    Batch,
    /// The running statistics, which stay, and no dropout: features whose weights are not trained are
    /// then exactly those that a projection sees.
    Frozen,
}

/// The projection at the end of a stage.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Push {
    /// Whether each prototype gets a patch of its own; otherwise several may share one, as published.
    pub distinct: bool,
    /// Which pixels stand for a patch.
    pub window: WindowRule,
}

/// Some epochs of a training in which the same is learnt.
///
/// Stages of one name share one optimiser: its moments, and the epochs that a [`RateDecay`] counts, go on
/// from one to the next, as they do in the released trainings where joint stages and pushes take turns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// What it is called.
    pub name: String,
    /// Passes through the training images.
    pub epochs: usize,
    /// What is trained, and how fast.
    pub train: Parts,
    /// How the rates move.
    #[serde(default)]
    pub decay: RateDecay,
    /// What is learnt by.
    #[serde(default)]
    pub losses: LossConfig,
    /// What the normalisation layers of the features go by.
    #[serde(default)]
    pub statistics: Statistics,
    /// The projection behind the last epoch.
    #[serde(default)]
    pub push: Option<Push>,
}

impl Stage {
    /// Checks the values.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field.
    pub fn validate(&self) -> Result<()> {
        if self.name.is_empty() || self.name.contains('/') {
            let reason = format!("is {:?}, must be a word without a slash", self.name);
            return Err(Error::config("name", reason));
        }
        if self.epochs == 0 {
            return Err(Error::config("epochs", format!("of stage `{}` are 0, at least 1", self.name)));
        }
        self.train.validate()?;
        self.decay.validate()?;
        self.losses.validate()?;
        self.push.as_ref().map_or(Ok(()), |push| push.window.validate())
    }
}

/// The stages of a training, one after another.
///
/// ```
/// use xdiff_proto::loss::{LossConfig, LossWeights};
/// use xdiff_proto::stage::{Parts, Push, Rate, Schedule, Stage, Statistics};
///
/// // Prototypes alone on features that stay as they are, then a push.
/// let stage = Stage {
///     name: "align".to_owned(),
///     epochs: 20,
///     train: Parts { prototypes: Some(Rate::new(3e-3)), ..Default::default() },
///     decay: Default::default(),
///     losses: LossConfig::new(LossWeights::single_class()),
///     statistics: Statistics::Frozen,
///     push: Some(Push::default()),
/// };
/// let schedule = Schedule { stages: vec![stage] };
/// schedule.validate()?;
/// // Schedules are read and written as JSON.
/// let text = serde_json::to_string(&Schedule::ppnet(2))?;
/// assert_eq!(serde_json::from_str::<Schedule>(&text)?, Schedule::ppnet(2));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Schedule {
    /// The stages.
    pub stages: Vec<Stage>,
}

const WARM: &str = "warm";
const JOINT: &str = "joint";
const LAST: &str = "last_layer";

impl Schedule {
    /// The released training of ProtoPNet (Chen et al. 2019): 5 warm epochs of the add-on layers and the
    /// prototypes, then joint epochs with the features, whose rates fall to a tenth every 5 of them; a
    /// push after the epochs 10, 20, 30 … (counted from 0), and 20 epochs of the last layer after each.
    /// Adam with rate 3e-3 for add-on layers and prototypes, 1e-4 for the features and for the last
    /// layer; λ = 1e-3 for features and add-on layers. The released settings go on to epoch 1000, which
    /// are 99 pushes; two or three do where rates fall so fast.
    pub fn ppnet(pushes: usize) -> Self {
        let joint = Parts {
            features: Some(Rate::decayed(1e-4)),
            add_on: Some(Rate::decayed(3e-3)),
            prototypes: Some(Rate::new(3e-3)),
            ..Default::default()
        };
        let mut stages = vec![stage(WARM, 5, Parts { features: None, ..joint }, LossWeights::ppnet())];
        for push in 0..pushes {
            // Epochs 5 to 10, then ten at a time.
            let epochs = if push == 0 { 6 } else { 10 };
            stages.push(Stage {
                decay: RateDecay::Step { every: 5, factor: 0.1 },
                push: Some(Push::default()),
                ..stage(JOINT, epochs, joint, LossWeights::ppnet())
            });
            let head = Parts { head: Some(Rate::new(1e-4)), ..Default::default() };
            stages.push(stage(LAST, 20, head, LossWeights::last_layer()));
        }
        Self { stages }
    }

    /// The released training of ProtoPool (Rymarczyk et al. 2022): 10 warm epochs of everything but the
    /// features and the last layer, 10 joint ones, whose rates fall to a tenth every 5, one push, and 25
    /// epochs of the last layer, whose rate falls to 0.95 of itself every 5. Adam with rate 3e-3 for
    /// add-on layers, prototypes and slots, 1e-4 for the features and for the last layer; λ = 1e-3 but
    /// for prototypes and slots.
    ///
    /// The released program goes on for as many joint epochs as one asks for, and lowers rates when the
    /// *test* loss no longer falls; that is left out.
    pub fn protopool() -> Self {
        let joint = Parts {
            features: Some(Rate::decayed(1e-4)),
            add_on: Some(Rate::decayed(3e-3)),
            prototypes: Some(Rate::new(3e-3)),
            assignment: Some(Rate::new(3e-3)),
            head: None,
        };
        let head = Parts { head: Some(Rate::decayed(1e-4)), ..Default::default() };
        let stages = vec![
            stage(WARM, 10, Parts { features: None, ..joint }, LossWeights::protopool()),
            Stage {
                decay: RateDecay::Step { every: 5, factor: 0.1 },
                push: Some(Push::default()),
                ..stage(JOINT, 10, joint, LossWeights::protopool())
            },
            Stage {
                decay: RateDecay::Step { every: 5, factor: 0.95 },
                ..stage(LAST, 25, head, LossWeights::last_layer())
            },
        ];
        Self { stages }
    }

    /// For some hundred images, on features that were trained as a plain classifier before: one epoch and
    /// a push onto patches of their own, so that prototypes begin as patches (the published training
    /// needs thousands of steps to bring them near any); ten warm epochs, in which most is learnt; six
    /// joint epochs, a push, and two epochs of the last layer. The rates begin as in
    /// [`ppnet`](Self::ppnet), but for the last layer, whose 1e-4 moves nothing in so few steps: 1e-3.
    /// Running statistics stay throughout, so that a push sees the features that were trained on.
    ///
    /// It goes with a similarity of ε = 0.1: with 1e-4 an exact likeness counts so much more than a near
    /// one that a push undoes what was learnt.
    pub fn small_data() -> Self {
        let joint = Parts {
            features: Some(Rate::decayed(1e-4)),
            add_on: Some(Rate::decayed(3e-3)),
            prototypes: Some(Rate::new(3e-3)),
            ..Default::default()
        };
        let warm = Parts { features: None, ..joint };
        let head = Parts { head: Some(Rate::new(1e-3)), ..Default::default() };
        let halved = |every| RateDecay::Step { every, factor: 0.5 };
        let frozen = |name, epochs, train, weights| Stage {
            statistics: Statistics::Frozen,
            ..stage(name, epochs, train, weights)
        };
        let ppnet = LossWeights::ppnet;
        let seed = Stage {
            push: Some(Push { distinct: true, ..Default::default() }),
            ..frozen("seed", 1, warm, ppnet())
        };
        let pushed =
            Stage { decay: halved(3), push: Some(Push::default()), ..frozen(JOINT, 6, joint, ppnet()) };
        let last = frozen(LAST, 2, head, LossWeights::last_layer());
        let warm = Stage { decay: halved(5), ..frozen(WARM, 10, warm, ppnet()) };
        Self { stages: vec![seed, warm, pushed, last] }
    }

    /// Epochs in all.
    pub fn epochs(&self) -> usize {
        self.stages.iter().map(|stage| stage.epochs).sum()
    }

    /// The stage of an epoch, and which of its epochs that is; `None` behind the last.
    pub fn at(&self, epoch: usize) -> Option<(&Stage, usize)> {
        let mut first = 0;
        for stage in &self.stages {
            if epoch < first + stage.epochs {
                return Some((stage, epoch - first));
            }
            first += stage.epochs;
        }
        None
    }

    /// How many epochs before this one were of stages of that name.
    pub(crate) fn epochs_of(&self, name: &str, before: usize) -> usize {
        (0..before).filter(|epoch| self.at(*epoch).is_some_and(|(stage, _)| stage.name == name)).count()
    }

    /// Checks all stages, and that those of one name can share an optimiser.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field.
    pub fn validate(&self) -> Result<()> {
        if self.stages.is_empty() {
            return Err(Error::config("stages", "are none, at least 1"));
        }
        for (i, stage) in self.stages.iter().enumerate() {
            stage.validate()?;
            let first = self.stages[..i].iter().find(|earlier| earlier.name == stage.name);
            if first.is_some_and(|first| first.train != stage.train) {
                let reason = format!(
                    "has two stages `{}` that train other parts or at other rates; give them two names",
                    stage.name
                );
                return Err(Error::config("stages", reason));
            }
        }
        Ok(())
    }
}

/// A stage as the released trainings have them.
fn stage(name: &str, epochs: usize, train: Parts, weights: LossWeights) -> Stage {
    Stage {
        name: name.to_owned(),
        epochs,
        train,
        decay: RateDecay::Constant,
        losses: LossConfig::new(weights),
        statistics: Statistics::Batch,
        push: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_training_pushes_after_every_tenth_epoch() {
        let schedule = Schedule::ppnet(3);
        schedule.validate().unwrap();
        // As the released program counts them: without the epochs of the last layer.
        let (mut epoch, mut pushes) = (0, Vec::new());
        for stage in schedule.stages.iter().filter(|stage| stage.name != LAST) {
            epoch += stage.epochs;
            if stage.push.is_some() {
                pushes.push(epoch - 1);
            }
        }
        assert_eq!(pushes, [10, 20, 30]);
        assert_eq!(schedule.epochs(), 31 + 3 * 20);
        // Five joint epochs at the full rate, the sixth at a tenth; those after the push go on from there.
        let factor = |epoch: usize| {
            let (stage, _) = schedule.at(epoch).unwrap();
            stage.decay.factor(schedule.epochs_of(&stage.name, epoch))
        };
        assert_eq!((factor(5), factor(9)), (1.0, 1.0));
        for (epoch, expected) in [(10, 0.1), (31, 0.1), (34, 0.1), (35, 0.01), (40, 1e-3)] {
            assert!((factor(epoch) / expected - 1.0).abs() < 1e-12, "epoch {epoch}: {}", factor(epoch));
        }
        assert_eq!(schedule.at(11).map(|(stage, i)| (stage.name.as_str(), i)), Some((LAST, 0)));
        assert!(schedule.at(91).is_none());
        for other in [Schedule::protopool(), Schedule::small_data()] {
            other.validate().unwrap();
        }
    }

    #[test]
    fn parameters_belong_to_parts_by_their_published_names() {
        for (name, part) in [
            ("features.layer1.0.conv1.weight", Part::Features),
            ("add_on_layers.2.bias", Part::AddOn),
            ("prototype_vectors", Part::Prototypes),
            ("proto_presence", Part::Assignment),
            ("last_layer.weight", Part::Head),
            ("prototype_vectors_of_mine", Part::Features),
        ] {
            assert_eq!(Part::of(name), part, "{name}");
        }
    }

    #[test]
    fn what_cannot_be_trained_by_is_named() {
        let good = || Schedule::ppnet(1).stages.remove(1);
        let change = |change: fn(&mut Stage)| {
            let mut stage = good();
            change(&mut stage);
            Schedule { stages: vec![good(), stage] }
        };
        for (what, schedule) in [
            ("no stage", Schedule { stages: vec![] }),
            ("no name", change(|s| s.name.clear())),
            ("a slash", change(|s| s.name = "a/b".to_owned())),
            ("no epoch", change(|s| s.epochs = 0)),
            ("no part", change(|s| s.train = Parts::default())),
            ("a negative rate", change(|s| s.train.add_on = Some(Rate::new(-1.0)))),
            ("a rate of NaN", change(|s| s.train.head = Some(Rate { lr: 1.0, l2: f64::NAN }))),
            ("no steps", change(|s| s.decay = RateDecay::Step { every: 0, factor: 0.5 })),
            ("a factor of 0", change(|s| s.decay = RateDecay::Step { every: 1, factor: 0.0 })),
            ("no loss", change(|s| s.losses = LossConfig::new(LossWeights::default()))),
            ("another rate under one name", change(|s| s.train.add_on = Some(Rate::new(1.0)))),
        ] {
            assert!(matches!(schedule.validate(), Err(Error::Config { .. })), "{what}");
        }
        let push = Push { window: WindowRule::Percentile(101.0), ..Default::default() };
        let mut stage = good();
        stage.push = Some(push);
        assert!(stage.validate().is_err());
    }

    #[test]
    fn a_user_writes_a_stage_in_a_few_lines() {
        let text = r#"[{"name": "joint", "epochs": 3, "train": {"prototypes": {"lr": 0.003}}, "push": {}}]"#;
        let schedule: Schedule = serde_json::from_str(text).unwrap();
        schedule.validate().unwrap();
        assert_eq!(schedule.stages[0].push, Some(Push::default()));
        assert_eq!(schedule.stages[0].losses, LossConfig::default());
        assert!(serde_json::from_str::<Schedule>(r#"[{"name": "a", "epoch": 3, "train": {}}]"#).is_err());
    }
}
