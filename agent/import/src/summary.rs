//! How an error is put into a condition's message: what failed, and the first cause of it.

use std::error::Error;

/// An error in one line: its own words and its innermost cause. What lies between (which layer of a client
/// passed it on) helps nobody but the log.
pub fn summary(error: &dyn Error) -> String {
    let innermost = std::iter::successors(error.source(), |error| (**error).source()).last();
    innermost.map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Layer(&'static str, #[source] io::Error);

    #[test]
    fn the_first_cause_is_named() {
        assert_eq!(summary(&io::Error::other("alone")), "alone");
        let middle = io::Error::other(Layer("middle", io::Error::other("cause")));
        assert_eq!(summary(&Layer("outer", middle)), "outer: cause");
    }
}
