//! The token of the next page of a list: what is accepted is what the server would give out.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ucloud_machinery::fuzzing::reissue_continuation;

fuzz_target!(|token: &str| {
    let Some(reissued) = reissue_continuation(token) else {
        return;
    };
    assert_eq!(reissue_continuation(&reissued).as_ref(), Some(&reissued));
});
