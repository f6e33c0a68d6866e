//! Bits of a JPEG-LS scan: after a byte 0xFF the next has seven (T.87, A.1).

/// Reads bits from the highest down.
pub(super) struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
    /// The last bits that were taken from `bytes`, in the low end.
    held: u64,
    count: u32,
    after_ff: bool,
}

impl<'a> Bits<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, held: 0, count: 0, after_ff: false }
    }

    /// Fills up to at least `wanted` bits, at most 32.
    fn fill(&mut self, wanted: u32) -> Result<(), String> {
        while self.count < wanted {
            let next = self.bytes.get(self.at).copied();
            let byte = next.filter(|b| !(self.after_ff && b & 0x80 != 0));
            let byte = byte.ok_or("the JPEG-LS scan stops before its end")?;
            let bits = if self.after_ff { 7 } else { 8 };
            self.held = self.held << bits | u64::from(byte);
            self.count += bits;
            self.after_ff = byte == 0xFF;
            self.at += 1;
        }
        Ok(())
    }

    /// The next `n` bits, at most 24.
    pub(super) fn take(&mut self, n: u32) -> Result<u32, String> {
        self.fill(n)?;
        self.count -= n;
        Ok((self.held >> self.count) as u32 & ((1u32 << n) - 1))
    }

    /// How many zeros stand before the next one, which is taken too. More than `most` are an error.
    pub(super) fn zeros(&mut self, most: u32) -> Result<u32, String> {
        for zeros in 0..=most {
            if self.take(1)? == 1 {
                return Ok(zeros);
            }
        }
        Err("a JPEG-LS code is longer than its limit".into())
    }

    /// Where the next marker stands.
    pub(super) fn end(&self) -> usize {
        let rest = self.bytes.get(self.at.saturating_sub(1)..).unwrap_or(&[]);
        let marker = rest.windows(2).position(|w| w[0] == 0xFF && w[1] & 0x80 != 0);
        marker.map_or(self.bytes.len(), |m| self.at.saturating_sub(1) + m)
    }
}
