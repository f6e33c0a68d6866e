//! One scan: contexts, regular mode and run mode (T.87, annex A). Names are those of the standard.

use super::Interleave;
use super::bits::Bits;

/// J: the order of run lengths (A.7.1.1).
const RUN_ORDER: [u32; 32] =
    [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 9, 10, 11, 12, 13, 14, 15];

/// A Golomb order beyond what sound data lead to.
const MOST_ORDER: u32 = 24;

/// The parameters of a scan (A.2.1 and C.2.4.1.1).
#[derive(Clone, Copy, Debug)]
pub(super) struct Coding {
    maxval: i32,
    near: i32,
    thresholds: [i32; 3],
    reset: i32,
    range: i32,
    /// Bits of a mapped error that is coded as it is.
    qbpp: u32,
    limit: u32,
}

impl Coding {
    pub(super) fn new(precision: u8, near: i32, preset: Option<[i32; 5]>) -> Result<Self, String> {
        let [maxval, t1, t2, t3, reset] = preset.unwrap_or_default();
        let most = (1i32 << precision) - 1;
        let maxval = if maxval == 0 { most } else { maxval };
        if maxval > most || near > (maxval / 2).min(255) {
            return Err(format!("a greatest value of {maxval} with an error of {near} in {precision} bits"));
        }
        let mut thresholds = default_thresholds(maxval, near);
        for (threshold, given) in thresholds.iter_mut().zip([t1, t2, t3]) {
            if given != 0 {
                *threshold = given;
            }
        }
        let [t1, t2, t3] = thresholds;
        let reset = if reset == 0 { 64 } else { reset };
        if !(near < t1 && t1 <= t2 && t2 <= t3 && t3 <= maxval) || reset < 3 {
            return Err(format!("preset thresholds {thresholds:?} with a reset at {reset}"));
        }
        let range = (maxval + 2 * near) / (2 * near + 1) + 1;
        let bits = |n: i32| 32 - (n - 1).leading_zeros();
        let bpp = bits(maxval + 1).max(2);
        Ok(Self { maxval, near, thresholds, reset, range, qbpp: bits(range), limit: 2 * (bpp + bpp.max(8)) })
    }

    /// The region of a gradient, −4 to 4 (A.3.3).
    fn region(&self, gradient: i32) -> i32 {
        let size = gradient.abs();
        let [t1, t2, t3] = self.thresholds;
        let region = match size {
            s if s <= self.near => 0,
            s if s < t1 => 1,
            s if s < t2 => 2,
            s if s < t3 => 3,
            _ => 4,
        };
        region * gradient.signum()
    }

    /// The sample from its prediction and its error (A.4.4 and A.4.5).
    fn sample(&self, prediction: i32, error: i32) -> i32 {
        let step = 2 * self.near + 1;
        let mut value = i64::from(prediction) + i64::from(error) * i64::from(step);
        let span = i64::from(self.range) * i64::from(step);
        if value < i64::from(-self.near) {
            value += span;
        } else if value > i64::from(self.maxval + self.near) {
            value -= span;
        }
        value.clamp(0, i64::from(self.maxval)) as i32
    }
}

/// T1, T2 and T3 where they are not given (C.2.4.1.1.1).
fn default_thresholds(maxval: i32, near: i32) -> [i32; 3] {
    let clamp = |v: i32, low: i32| if v > maxval || v < low { low } else { v };
    let (t1, t2, t3) = if maxval >= 128 {
        let factor = (maxval.min(4095) + 128) / 256;
        (factor + 2 + 3 * near, 4 * factor + 3 + 5 * near, 17 * factor + 4 + 7 * near)
    } else {
        let factor = 256 / (maxval + 1);
        ((3 / factor + 3 * near).max(2), (7 / factor + 5 * near).max(3), (21 / factor + 7 * near).max(4))
    };
    let t1 = clamp(t1, near + 1);
    let t2 = clamp(t2, t1);
    [t1, t2, clamp(t3, t2)]
}

/// What is known of the errors in one context (A.2.1). For run interruptions `b` counts negative errors.
#[derive(Clone, Copy, Debug)]
struct Context {
    a: i64,
    b: i64,
    c: i32,
    n: i64,
}

impl Context {
    /// The order of the Golomb code for a mean of `a` (A.5.1).
    fn order(&self, a: i64) -> Result<u32, String> {
        let k = (0..=MOST_ORDER).find(|k| self.n << k >= a);
        k.ok_or_else(|| "the JPEG-LS data lead to impossible errors".into())
    }
}

/// A scan and the image that it belongs to.
pub(super) struct Scan<'a> {
    pub(super) coding: Coding,
    /// The components by their place in the frame.
    pub(super) members: &'a [usize],
    pub(super) interleave: Interleave,
    pub(super) rows: usize,
    pub(super) columns: usize,
}

impl Scan<'_> {
    /// Decodes into an image of `stride` interleaved components; how many bytes were used.
    pub(super) fn decode(&self, bytes: &[u8], image: &mut [u16], stride: usize) -> Result<usize, String> {
        let groups: Vec<&[usize]> = match self.interleave {
            Interleave::Sample => vec![self.members],
            Interleave::None | Interleave::Line => self.members.chunks(1).collect(),
        };
        let line = || vec![0i32; self.columns + 2];
        // A line begins with the sample to its left, and ends with one to the right.
        let mut above: Vec<Vec<Vec<i32>>> =
            groups.iter().map(|g| g.iter().map(|_| line()).collect()).collect();
        let mut now = above.clone();
        let mut run_index = vec![0usize; groups.len()];
        let mut state = State::new(self.coding, bytes);
        for row in 0..self.rows {
            for (g, members) in groups.iter().enumerate() {
                for (current, previous) in now[g].iter_mut().zip(&mut above[g]) {
                    current[0] = previous[1];
                    previous[self.columns + 1] = previous[self.columns];
                }
                state.line(&above[g], &mut now[g], &mut run_index[g])?;
                for (member, current) in members.iter().zip(&now[g]) {
                    let start = row * self.columns * stride + member;
                    let places = image[start..].iter_mut().step_by(stride);
                    places.zip(&current[1..=self.columns]).for_each(|(p, v)| *p = *v as u16);
                }
                std::mem::swap(&mut above[g], &mut now[g]);
            }
        }
        Ok(state.bits.end())
    }
}

struct State<'a> {
    coding: Coding,
    bits: Bits<'a>,
    /// 365 of the regular mode, then two of run interruptions.
    contexts: Vec<Context>,
}

/// The samples around one that is not known yet: left, above, above left, above right.
#[derive(Clone, Copy)]
struct Around {
    a: i32,
    b: i32,
    c: i32,
    d: i32,
}

impl Around {
    fn at(above: &[i32], now: &[i32], x: usize) -> Self {
        Self { a: now[x], b: above[x + 1], c: above[x], d: above[x + 2] }
    }

    /// The edge-detecting prediction (A.4.1).
    fn prediction(self) -> i32 {
        let (low, high) = (self.a.min(self.b), self.a.max(self.b));
        if self.c >= high {
            low
        } else if self.c <= low {
            high
        } else {
            self.a + self.b - self.c
        }
    }
}

impl<'a> State<'a> {
    fn new(coding: Coding, bytes: &'a [u8]) -> Self {
        let start = Context { a: i64::from(((coding.range + 32) / 64).max(2)), b: 0, c: 0, n: 1 };
        Self { coding, bits: Bits::new(bytes), contexts: vec![start; 367] }
    }

    /// One line of the components that are coded sample by sample.
    fn line(
        &mut self,
        above: &[Vec<i32>],
        now: &mut [Vec<i32>],
        run_index: &mut usize,
    ) -> Result<(), String> {
        let columns = above[0].len() - 2;
        let mut x = 0;
        while x < columns {
            let places: Vec<Around> = above.iter().zip(&*now).map(|(p, n)| Around::at(p, n, x)).collect();
            let contexts: Vec<i32> = places.iter().map(|p| self.context(*p)).collect();
            if contexts.iter().all(|q| *q == 0) {
                x += self.run(above, now, x, run_index)?;
            } else {
                for ((place, context), line) in places.iter().zip(contexts).zip(now.iter_mut()) {
                    line[x + 1] = self.regular(*place, context)?;
                }
                x += 1;
            }
        }
        Ok(())
    }

    /// The context of the regular mode with its sign (A.3.4); 0 leads to run mode.
    fn context(&self, p: Around) -> i32 {
        let region = |gradient| self.coding.region(gradient);
        81 * region(p.d - p.b) + 9 * region(p.b - p.c) + region(p.c - p.a)
    }

    /// A code of limited length (A.5.3).
    fn golomb(&mut self, k: u32, limit: u32) -> Result<i32, String> {
        let most = limit.saturating_sub(self.coding.qbpp + 1);
        let high = self.bits.zeros(most)?;
        Ok(if high < most {
            (high << k | self.bits.take(k)?) as i32
        } else {
            self.bits.take(self.coding.qbpp)? as i32 + 1
        })
    }

    /// A sample by its prediction (A.4 to A.6).
    fn regular(&mut self, place: Around, signed: i32) -> Result<i32, String> {
        let Coding { near, reset, maxval, limit, .. } = self.coding;
        let (index, sign) = (signed.unsigned_abs() as usize, if signed < 0 { -1 } else { 1 });
        let known = self.contexts[index];
        let prediction = (place.prediction() + sign * known.c).clamp(0, maxval);
        let k = known.order(known.a)?;
        let mapped = self.golomb(k, limit)?;
        let error = match (near == 0 && k == 0 && 2 * known.b <= -known.n, mapped & 1) {
            (false, 0) => mapped >> 1,
            (false, _) => -(mapped >> 1) - 1,
            (true, 0) => -(mapped >> 1) - 1,
            (true, _) => mapped >> 1,
        };
        let context = &mut self.contexts[index];
        context.a += i64::from(error.abs());
        context.b += i64::from(error) * i64::from(2 * near + 1);
        if context.n == i64::from(reset) {
            context.a >>= 1;
            context.b >>= 1;
            context.n >>= 1;
        }
        context.n += 1;
        if context.b <= -context.n {
            context.b = (context.b + context.n).max(1 - context.n);
            context.c = (context.c - 1).max(-128);
        } else if context.b > 0 {
            context.b = (context.b - context.n).min(0);
            context.c = (context.c + 1).min(127);
        }
        Ok(self.coding.sample(prediction, sign * error))
    }

    /// A run of samples like those to the left, and the sample that ends it (A.7); how many were set.
    fn run(
        &mut self,
        above: &[Vec<i32>],
        now: &mut [Vec<i32>],
        start: usize,
        run_index: &mut usize,
    ) -> Result<usize, String> {
        let columns = above[0].len() - 2;
        let mut x = start;
        let fill = |now: &mut [Vec<i32>], x: &mut usize, count: usize| {
            for line in now {
                let left = line[*x];
                line[*x + 1..*x + 1 + count].fill(left);
            }
            *x += count;
        };
        while self.bits.take(1)? == 1 {
            let whole = 1usize << RUN_ORDER[*run_index];
            let count = whole.min(columns - x);
            fill(now, &mut x, count);
            if count == whole {
                *run_index = (*run_index + 1).min(31);
            }
            if x == columns {
                return Ok(x - start);
            }
        }
        let count = self.bits.take(RUN_ORDER[*run_index])? as usize;
        if count >= columns - x {
            return Err("a JPEG-LS run is longer than its line".into());
        }
        fill(now, &mut x, count);
        let alone = now.len() == 1;
        for (line, previous) in now.iter_mut().zip(above) {
            let place = Around::at(previous, line, x);
            line[x + 1] = self.interruption(place, alone, RUN_ORDER[*run_index])?;
        }
        *run_index = run_index.saturating_sub(1);
        Ok(x + 1 - start)
    }

    /// The sample that ends a run (A.7.2). Where several components run together only the context of
    /// unlike neighbours is used.
    fn interruption(&mut self, place: Around, alone: bool, run_order: u32) -> Result<i32, String> {
        let Coding { near, reset, limit, .. } = self.coding;
        let alike = alone && (place.a - place.b).abs() <= near;
        let kind = usize::from(alike);
        let known = self.contexts[365 + kind];
        let k = known.order(if alike { known.a + (known.n >> 1) } else { known.a })?;
        let mapped = self.golomb(k, limit - run_order - 1)?;
        let doubled = mapped + kind as i32;
        let size = (doubled + 1) >> 1;
        let flipped = k != 0 || 2 * known.b >= known.n;
        let error = if flipped == (doubled & 1 == 1) { -size } else { size };
        let context = &mut self.contexts[365 + kind];
        context.b += i64::from(error < 0);
        context.a += i64::from((mapped + 1 - kind as i32) >> 1);
        if context.n == i64::from(reset) {
            context.a >>= 1;
            context.b >>= 1;
            context.n >>= 1;
        }
        context.n += 1;
        let sign = if !alike && place.a > place.b { -1 } else { 1 };
        Ok(self.coding.sample(if alike { place.a } else { place.b }, sign * error))
    }
}
