//! The arithmetic of encoders, over slices.
//!
//! Everything here is safe code that is compiled once per instruction set and chosen at run time
//! ([`pulp`]), so the program runs on any x86-64 and uses AVX2 with FMA where the processor has
//! them. Nothing here allocates, splits over threads or knows what a model is.

mod panels;
mod rows;
mod scalar;
pub(crate) mod wide;

pub(crate) use panels::{Panels, Product};

pub(crate) use rows::{
    Activation, Normalise, activate, activate_gated, add, normalise, normalise_sum, rotate, softmax,
};

/// `to = from`, of one length, a few vectors long: a call of the system's copy costs more than that.
#[inline]
pub(crate) fn copy(to: &mut [f32], from: &[f32]) {
    let ((to, to_rest), (from, from_rest)) = (to.as_chunks_mut::<8>(), from.as_chunks::<8>());
    to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
    to_rest.iter_mut().zip(from_rest).for_each(|(to, from)| *to = *from);
}

/// Declares a function whose loops are compiled for each instruction set.
macro_rules! vectorised {
    ($(#[$meta:meta])* fn $name:ident<$life:lifetime>($($arg:ident: $type:ty),* $(,)?) $body:block) => {
        $(#[$meta])*
        pub(crate) fn $name<$life>($($arg: $type),*) {
            struct Job<$life> { $($arg: $type),* }
            impl<$life> pulp::WithSimd for Job<$life> {
                type Output = ();
                #[inline(always)]
                fn with_simd<S: pulp::Simd>(self, _: S) {
                    let Job { $($arg),* } = self;
                    $body
                }
            }
            pulp::Arch::new().dispatch(Job { $($arg),* });
        }
    };
}
use vectorised;
