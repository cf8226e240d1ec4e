//! A label selector and a field selector. `!a` selects what `a` does not; spaces at the ends mean nothing.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ucloud_machinery::selector::{FieldSelector, LabelSelector};

const LABELS: [(&str, &str); 4] = [("a", "b"), ("app", "web"), ("n", "5"), ("example.com/x", "")];

fuzz_target!(|text: &str| {
    if let Ok(selector) = LabelSelector::parse(text) {
        let label = |key: &str| LABELS.iter().find(|(name, _)| *name == key).map(|(_, value)| *value);
        let matches = selector.matches(label);
        assert!(!selector.is_empty() || matches, "the empty selector selects everything");
        assert_eq!(LabelSelector::parse(&format!(" {text} ")).expect("spaces mean nothing"), selector);
        // an object without labels is selected by each term alone, or not by all
        let bare = selector.matches(|_| None);
        let twice = LabelSelector::parse(&format!("{text},{text}"));
        if let Ok(twice) = twice {
            assert_eq!(twice.matches(label), matches);
            assert_eq!(twice.matches(|_| None), bare);
        }
    }
    if let Ok(selector) = FieldSelector::parse(text)
        && let Some(value) = selector.required_value("status.host")
    {
        // the authorizer of agents relies on this: what is demanded is demanded literally
        let escaped = value.replace('\\', r"\\").replace(',', r"\,").replace('=', r"\=");
        let rebuilt = FieldSelector::parse(&format!("status.host={escaped}")).expect("an escaped value can be read");
        assert_eq!(rebuilt.required_value("status.host"), Some(value));
    }
});
