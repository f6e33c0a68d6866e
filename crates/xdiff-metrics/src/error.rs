//! What can go wrong in this crate, by who is at fault.

/// An error of `xdiff-metrics`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An option holds a value that cannot be used.
    #[error("option `{field}`: {reason}")]
    Config {
        /// The option.
        field: &'static str,
        /// Why the value cannot be used, and which values can.
        reason: String,
    },
    /// Two inputs that are compared element by element have different shapes.
    #[error("{metric}: the two inputs must have the same shape, got {a:?} and {b:?}")]
    Mismatch {
        /// The metric.
        metric: &'static str,
        /// The shape of the first.
        a: Vec<usize>,
        /// The shape of the second.
        b: Vec<usize>,
    },
    /// An input has a shape that the metric cannot take.
    #[error("{metric}: expected {expected}, got {got:?}")]
    Shape {
        /// The metric.
        metric: &'static str,
        /// What it takes, in words.
        expected: String,
        /// The shape it was given.
        got: Vec<usize>,
    },
    /// An image is smaller than the window of the metric.
    #[error("{metric}: both sides must be at least {min}, got {height}×{width}; {hint}")]
    TooSmall {
        /// The metric.
        metric: &'static str,
        /// The shortest side that it takes.
        min: usize,
        /// Rows of the image.
        height: usize,
        /// Columns of the image.
        width: usize,
        /// What to do.
        hint: &'static str,
    },
    /// There are fewer samples than the statistic is defined for.
    #[error("{metric}: needs at least {need} {unit}, got {got}")]
    TooFew {
        /// The metric.
        metric: &'static str,
        /// What is counted.
        unit: &'static str,
        /// How many are needed.
        need: usize,
        /// How many there are.
        got: usize,
    },
    /// An input holds a value that the metric is not defined for.
    #[error("{metric}: {what} holds {value} at index {index}; {hint}")]
    Value {
        /// The metric.
        metric: &'static str,
        /// The input.
        what: &'static str,
        /// The value.
        value: f64,
        /// Its place in row-major order.
        index: usize,
        /// What to do.
        hint: &'static str,
    },
    /// The statistic does not exist for these inputs, though each value is fine.
    #[error("{metric} is not defined: {reason}")]
    Undefined {
        /// The metric.
        metric: &'static str,
        /// Why.
        reason: &'static str,
    },
    /// Two accumulators, or an accumulator and a batch, were made with different settings.
    #[error("{metric}: {what} differs: {left} here, {right} in what is added")]
    Incompatible {
        /// The metric.
        metric: &'static str,
        /// The setting.
        what: &'static str,
        /// The setting of the accumulator.
        left: String,
        /// The setting of what should be added.
        right: String,
    },
    /// A sample was given twice, such as by two shards that overlap.
    #[error("{metric}: the sample `{name}` was added more than once")]
    Duplicate {
        /// The metric.
        metric: &'static str,
        /// The name of the sample.
        name: String,
    },
    /// A matrix decomposition failed or lost more digits than rounding can explain.
    #[error("{metric}: {reason}")]
    Numerics {
        /// The metric.
        metric: &'static str,
        /// What happened, and what to do.
        reason: String,
    },
    /// A feature extractor reported an error.
    #[error(transparent)]
    Core(#[from] xdiff_core::Error),
    /// The tensor engine refused an operation.
    #[error("tensor engine: {0}")]
    Candle(#[from] candle_core::Error),
}

/// The result of an operation of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn config(field: &'static str, reason: impl Into<String>) -> Self {
        Error::Config { field, reason: reason.into() }
    }

    pub(crate) fn shape(metric: &'static str, expected: impl Into<String>, got: &[usize]) -> Self {
        Error::Shape { metric, expected: expected.into(), got: got.to_vec() }
    }
}

impl From<xdiff_nn::Error> for Error {
    fn from(e: xdiff_nn::Error) -> Self {
        Error::Core(e.into())
    }
}

/// Lets a metric of this crate stand where `xdiff-core` asks for a [`Distance`](xdiff_core::Distance).
impl From<Error> for xdiff_core::Error {
    fn from(e: Error) -> Self {
        match e {
            Error::Core(e) => e,
            Error::Candle(e) => e.into(),
            e => xdiff_core::Error::input("metric", e.to_string()),
        }
    }
}

/// Fails on the first value that is NaN or infinite.
pub(crate) fn check_finite(metric: &'static str, what: &'static str, values: &[f64]) -> Result<()> {
    match values.iter().position(|v| !v.is_finite()) {
        None => Ok(()),
        Some(index) => Err(Error::Value { metric, what, value: values[index], index, hint: FINITE }),
    }
}

pub(crate) const FINITE: &str = "every value must be finite";
