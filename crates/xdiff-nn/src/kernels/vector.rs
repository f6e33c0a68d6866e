//! One function body, compiled for several instruction sets.

/// Declares a function that runs its body compiled for the widest vectors that the machine has.
///
/// The body is plain Rust in an `#[inline(always)]` function of the same signature. No operation is
/// reordered or fused, so the result is the same on every machine.
macro_rules! widest {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $type:ty),* $(,)?) = $body:ident;) => {
        $(#[$meta])*
        $vis fn $name($($arg: $type),*) {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f")]
                fn wide($($arg: $type),*) {
                    $body($($arg),*)
                }
                #[target_feature(enable = "avx2")]
                fn middle($($arg: $type),*) {
                    $body($($arg),*)
                }
                if std::arch::is_x86_feature_detected!("avx512f") {
                    // SAFETY: the feature was just detected.
                    return unsafe { wide($($arg),*) };
                }
                if std::arch::is_x86_feature_detected!("avx2") {
                    // SAFETY: the feature was just detected.
                    return unsafe { middle($($arg),*) };
                }
            }
            $body($($arg),*)
        }
    };
}

pub(crate) use widest;
