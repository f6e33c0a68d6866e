//! Where axes and colour bars are marked, and how numbers are written on pictures.

/// A marked value and its label.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tick {
    pub(crate) value: f64,
    pub(crate) label: String,
}

/// Marks at multiples of 1, 2 or 5 × 10ᵏ inside `[lo, hi]`, at most `most` (and at least 2) of them
/// where the numbers allow it. `lo < hi`, both finite.
pub(crate) fn linear(lo: f64, hi: f64, most: usize) -> Vec<Tick> {
    let most = most.max(2) as f64;
    let rough = (hi - lo) / most;
    let mut exponent = rough.log10().floor() as i32;
    let mut factor = 1.0;
    for candidate in [1.0, 2.0, 5.0, 10.0] {
        factor = candidate;
        // One mark more than intervals, unless both ends miss.
        if count_multiples(lo, hi, candidate * 10f64.powi(exponent)) <= most {
            break;
        }
    }
    if factor == 10.0 {
        (factor, exponent) = (1.0, exponent + 1);
    }
    // 5 × 10⁻³ is written as 5 / 10³, which rounds once; the product would round twice.
    let multiple = |index: f64| {
        if exponent < 0 {
            index * factor / 10f64.powi(-exponent)
        } else {
            index * factor * 10f64.powi(exponent)
        }
    };
    let step = factor * 10f64.powi(exponent);
    let first = (lo / step - 1e-9).ceil();
    let count = count_multiples(lo, hi, step) as usize;
    let values: Vec<f64> =
        (0..count.min(64)).map(|i| multiple(first + i as f64)).filter(|v| v.is_finite()).collect();
    let mut ticks: Vec<Tick> = Vec::with_capacity(values.len());
    let largest = values.iter().fold(0.0_f64, |m, v| m.max(v.abs()));
    for value in values {
        let label = if largest >= 1e6 || exponent < -4 {
            let digits = (order(value) - exponent).clamp(0, 15) as usize;
            scientific(value, digits)
        } else {
            signed(&format!("{value:.*}", (-exponent).max(0) as usize))
        };
        // Values too close for f64 would repeat.
        if ticks.last().is_none_or(|last| last.value < value) {
            ticks.push(Tick { value, label });
        }
    }
    ticks
}

/// How many multiples of `step` lie in `[lo, hi]`, with a little room for rounding.
fn count_multiples(lo: f64, hi: f64, step: f64) -> f64 {
    ((hi / step + 1e-9).floor() - (lo / step - 1e-9).ceil() + 1.0).max(0.0)
}

/// Marks for a logarithmic axis: powers of ten, thinned to about `most`; on less than two decades
/// also 2 and 5 times a power; on a fraction of a decade as [`linear`]. `0 < lo < hi`.
pub(crate) fn logarithmic(lo: f64, hi: f64, most: usize) -> Vec<Tick> {
    let (first, last) = ((lo.log10() - 1e-9).ceil() as i32, (hi.log10() + 1e-9).floor() as i32);
    let decades = last - first + 1;
    // Written out where none needs many zeros, and as powers of ten where one does.
    let is_plain = first >= -3 && last <= 4;
    let inside = |value: f64| value >= lo * (1.0 - 1e-9) && value <= hi * (1.0 + 1e-9);
    if decades >= 3 {
        let stride = (decades as usize).div_ceil(most.max(2)) as i32;
        let kept = (first..=last).filter(|k| k.rem_euclid(stride) == 0);
        return kept.map(|k| power_tick(1.0, k, is_plain)).collect();
    }
    let ticks: Vec<Tick> = (first - 1..=last)
        .flat_map(|k| [1.0, 2.0, 5.0].map(|m| power_tick(m, k, is_plain)))
        .filter(|tick| inside(tick.value))
        .collect();
    if ticks.len() >= 3 { ticks } else { linear(lo, hi, most) }
}

fn power_tick(mantissa: f64, exponent: i32, is_plain: bool) -> Tick {
    let value = power_of_ten(exponent) * mantissa;
    let label = match (mantissa == 1.0, is_plain) {
        (_, true) => format!("{value:.*}", (-exponent).max(0) as usize),
        (true, false) => format!("10{}", superscript(exponent)),
        (false, false) => format!("{mantissa:.0}×10{}", superscript(exponent)),
    };
    Tick { value, label }
}

/// 10ᵏ as the nearest f64: the power itself rounds for negative k.
fn power_of_ten(exponent: i32) -> f64 {
    if exponent < 0 && exponent > -300 { 1.0 / 10f64.powi(-exponent) } else { 10f64.powi(exponent) }
}

/// A number in few characters, with four significant digits: `0.1235`, `−12`, `3.2×10⁻⁷`.
pub(crate) fn compact(value: f64) -> String {
    if !value.is_finite() {
        return if value.is_nan() { "NaN".to_owned() } else { signed(&format!("{value}")) };
    }
    if value == 0.0 {
        return "0".to_owned();
    }
    let order = order(value);
    let text = if (-4..6).contains(&order) {
        trim_zeros(format!("{value:.*}", (3 - order).max(0) as usize))
    } else {
        return scientific(value, 3);
    };
    signed(&text)
}

/// The decimal exponent of the first digit; 0 for zero.
fn order(value: f64) -> i32 {
    if value == 0.0 { 0 } else { value.abs().log10().floor() as i32 }
}

/// `m×10ᵏ` with at most `digits` decimals in `m`.
fn scientific(value: f64, digits: usize) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    let text = format!("{value:.digits$e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    signed(&format!("{}×10{}", trim_zeros(mantissa.to_owned()), superscript(exponent)))
}

fn trim_zeros(text: String) -> String {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// A minus sign instead of a hyphen, and none before a zero.
fn signed(text: &str) -> String {
    match text.strip_prefix('-') {
        Some(rest) if rest.chars().all(|c| c == '0' || c == '.') => rest.to_owned(),
        Some(rest) => format!("−{rest}"),
        None => text.to_owned(),
    }
}

fn superscript(exponent: i32) -> String {
    exponent
        .to_string()
        .chars()
        .map(|c| match c {
            '-' => '⁻',
            '1' => '¹',
            '2' => '²',
            '3' => '³',
            _ => char::from_u32('⁰' as u32 + c as u32 - '0' as u32).unwrap_or(c),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn labels(ticks: &[Tick]) -> String {
        ticks.iter().map(|t| t.label.as_str()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn marks_are_where_a_person_would_put_them() {
        let cases = [
            (linear(0.0, 1.0, 6), "0.0 0.2 0.4 0.6 0.8 1.0"),
            (linear(-1.0, 1.0, 5), "−1.0 −0.5 0.0 0.5 1.0"),
            (linear(0.0, 1000.0, 6), "0 200 400 600 800 1000"),
            (linear(0.013, 0.047, 5), "0.02 0.03 0.04"),
            (linear(0.0, 3e-6, 4), "0 1×10⁻⁶ 2×10⁻⁶ 3×10⁻⁶"),
            (linear(0.0, 2.5e6, 6), "0 5×10⁵ 1×10⁶ 1.5×10⁶ 2×10⁶ 2.5×10⁶"),
            (linear(-7.0, -3.0, 5), "−7 −6 −5 −4 −3"),
            (logarithmic(1e-3, 1.0, 6), "0.001 0.01 0.1 1"),
            (logarithmic(1e-6, 1e2, 5), "10⁻⁶ 10⁻⁴ 10⁻² 10⁰ 10²"),
            (logarithmic(0.1, 10.0, 6), "0.1 1 10"),
            (logarithmic(0.08, 0.6, 6), "0.1 0.2 0.5"),
            (logarithmic(2.1, 2.9, 5), "2.2 2.4 2.6 2.8"),
        ];
        let wrong: Vec<_> = cases
            .iter()
            .filter(|(ticks, want)| labels(ticks) != *want)
            .map(|(ticks, want)| format!("{} instead of {want}", labels(ticks)))
            .collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    #[test]
    fn compact_numbers() {
        let cases = [
            (0.0, "0"),
            (-0.0, "0"),
            (0.123456, "0.1235"),
            (-12.0, "−12"),
            (123456.0, "123456"),
            (1e6, "1×10⁶"),
            (3.2e-7, "3.2×10⁻⁷"),
            (f64::NAN, "NaN"),
            (f64::NEG_INFINITY, "−inf"),
        ];
        let wrong: Vec<_> =
            cases.iter().filter(|(v, want)| compact(*v) != *want).map(|(v, _)| compact(*v)).collect();
        assert!(wrong.is_empty(), "{wrong:?}");
    }

    proptest! {
        #[test]
        fn linear_marks_rise_inside_the_range(lo in -1e9..1e9, width in 1e-9..1e9, most in 0usize..20) {
            let hi: f64 = lo + width;
            prop_assume!(hi > lo);
            let ticks = linear(lo, hi, most);
            let room = (hi - lo) * 1e-6 + lo.abs().max(hi.abs()) * 1e-9;
            prop_assert!(ticks.len() <= most.max(2));
            prop_assert!(ticks.iter().all(|t| t.value >= lo - room && t.value <= hi + room));
            prop_assert!(ticks.windows(2).all(|w| w[0].value < w[1].value));
        }

        #[test]
        fn logarithmic_marks_lie_inside_the_range(a in -300.0..300.0f64, width in 1e-3..300.0f64, most in 0usize..20) {
            let (lo, hi) = (10f64.powf(a), 10f64.powf((a + width).min(308.0)));
            prop_assume!(lo < hi);
            let ticks = logarithmic(lo, hi, most);
            prop_assert!(ticks.len() <= 64);
            prop_assert!(ticks.iter().all(|t| t.value >= lo * 0.999 && t.value <= hi * 1.001), "{ticks:?}");
        }
    }
}
