//! Which instructions form the products.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
use std::arch::{asm, x86_64::__cpuid_count};
#[cfg(target_arch = "x86_64")]
use std::sync::OnceLock;

use crate::compute::Bf16Support;

/// An instruction set that products of bf16 numbers are formed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// Plain loops, which say what the others compute. No processor gains by them.
    #[cfg_attr(not(test), expect(dead_code, reason = "tests hold the other levels to it"))]
    Portable,
    /// The blocks of [`Level::Amx`] with every instruction in plain Rust.
    #[cfg(test)]
    Emulated,
    /// AVX-512 with its products of bf16 pairs.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AMX's products of tiles; operands are packed with AVX-512.
    #[cfg(target_arch = "x86_64")]
    Amx,
}

impl Level {
    /// The fastest that this processor and system offer, if any; in tests, the one that the thread
    /// is held to.
    pub(crate) fn best() -> Option<Self> {
        #[cfg(test)]
        if let Some(level) = held() {
            return Some(level);
        }
        Self::detected()
    }

    #[cfg(target_arch = "x86_64")]
    fn detected() -> Option<Self> {
        static LEVEL: OnceLock<Option<Level>> = OnceLock::new();
        *LEVEL.get_or_init(|| {
            let vectors = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16");
            vectors.then(|| if has_tiles() { Level::Amx } else { Level::Avx512 })
        })
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn detected() -> Option<Self> {
        None
    }

    /// Whether products are formed by AMX, or as AMX forms them.
    pub(super) fn has_tiles(self) -> bool {
        match self {
            Level::Portable => false,
            #[cfg(test)]
            Level::Emulated => true,
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => false,
            #[cfg(target_arch = "x86_64")]
            Level::Amx => true,
        }
    }

    /// Whether operands may be packed with AVX-512.
    pub(super) fn has_vectors(self) -> bool {
        match self {
            Level::Portable => false,
            #[cfg(test)]
            Level::Emulated => false,
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 | Level::Amx => true,
        }
    }
}

/// Whether the processor has AMX for bf16, and the system lets this process use it.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn has_tiles() -> bool {
    const BF16_AND_TILES: u32 = 1 << 22 | 1 << 24;
    // Leaf 7 exists wherever AVX-512 was detected.
    __cpuid_count(7, 0).edx & BF16_AND_TILES == BF16_AND_TILES && tiles_permitted()
}

#[cfg(all(target_arch = "x86_64", not(target_os = "linux")))]
fn has_tiles() -> bool {
    false
}

/// Asks Linux to let all threads of this process use the tile registers; false where it does not
/// know them. (Documentation/arch/x86/xstate.rst of the kernel: a thread's first use allocates
/// their memory.)
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn tiles_permitted() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const REQUEST_PERMISSION: i64 = 0x1023;
    const TILE_DATA: i64 = 18;
    let result: i64;
    // SAFETY: a system call by the system's convention: the number in rax, arguments in rdi and
    // rsi, rcx and r11 overwritten. It touches no memory of the process.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => result,
            in("rdi") REQUEST_PERMISSION,
            in("rsi") TILE_DATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result == 0
}

/// What this processor and system offer.
pub(crate) fn support() -> Bf16Support {
    match Level::best() {
        #[cfg(target_arch = "x86_64")]
        Some(Level::Avx512) => Bf16Support::Avx512Bf16,
        #[cfg(target_arch = "x86_64")]
        Some(Level::Amx) => Bf16Support::Amx,
        _ => Bf16Support::None,
    }
}

#[cfg(test)]
thread_local! {
    static HELD: std::cell::Cell<Option<Level>> = const { std::cell::Cell::new(None) };
}

#[cfg(test)]
fn held() -> Option<Level> {
    HELD.get()
}

/// Every level that can run here.
#[cfg(test)]
pub(crate) fn levels() -> Vec<Level> {
    let mut levels = vec![Level::Portable, Level::Emulated];
    #[cfg(target_arch = "x86_64")]
    if let Some(best) = Level::detected() {
        levels.push(Level::Avx512);
        if best == Level::Amx {
            levels.push(best);
        }
    }
    levels
}

/// Runs `work` once for every level, with this thread held to it.
#[cfg(test)]
pub(crate) fn on_every_level(work: impl Fn(Level)) {
    for level in levels() {
        HELD.set(Some(level));
        work(level);
    }
    HELD.set(None);
}
