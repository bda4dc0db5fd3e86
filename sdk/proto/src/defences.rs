//! The switch that attack tests turn a defence off by, made once for every machine that has some.

/// Makes `Defences`, over the enum `Defence` that stands beside it. `off` names the one that a test has
/// switched off; it exists only under the condition that is given, so that a release build has nothing to
/// switch and asking costs nothing.
///
/// ```
/// #[derive(Clone, Copy, PartialEq, Eq, Debug)]
/// enum Defence {
///     Budgets,
/// }
/// meetpoint_proto::defences!(if feature = "attack-tests");
/// assert!(Defences::default().stand(Defence::Budgets));
/// ```
#[macro_export]
macro_rules! defences {
    (if $($when:tt)+) => {
        /// Which defences stand. Outside of tests all of them do.
        #[derive(Debug, Clone, Copy, Default)]
        pub(crate) struct Defences {
            #[cfg($($when)+)]
            pub(crate) off: Option<Defence>,
        }

        impl Defences {
            #[inline]
            #[allow(clippy::unused_self, reason = "one signature, whether there is a switch or not")]
            pub(crate) fn stand(self, which: Defence) -> bool {
                #[cfg($($when)+)]
                let stands = self.off != Some(which);
                #[cfg(not($($when)+))]
                let stands = {
                    let _ = which;
                    true
                };
                stands
            }
        }
    };
}
