//! Durations as kubectl shows them (Kubernetes' `duration.HumanDuration`): two units at most, fewer as they grow.

use jiff::Timestamp;

/// How long ago `since` (RFC 3339) was, e.g. `5m10s` or `3d4h`; `<unknown>` if it is no point in time.
pub(crate) fn age(since: &str, now: Timestamp) -> String {
    match since.parse::<Timestamp>() {
        Ok(since) => human_duration(now.as_second() - since.as_second()),
        Err(_) => "<unknown>".to_owned(),
    }
}

fn human_duration(seconds: i64) -> String {
    /// The greater unit, and the lesser one where it is not zero.
    fn two(great: i64, great_unit: char, small: i64, small_unit: char) -> String {
        if small == 0 { format!("{great}{great_unit}") } else { format!("{great}{great_unit}{small}{small_unit}") }
    }
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let days = hours / 24;
    match seconds {
        ..-1 => "<invalid>".to_owned(),
        -1..0 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        120..600 => two(minutes, 'm', seconds % 60, 's'),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => two(hours, 'h', minutes % 60, 'm'),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => two(days, 'd', hours % 24, 'h'),
        691_200..63_072_000 => format!("{days}d"),
        63_072_000..252_288_000 => two(days / 365, 'y', days % 365, 'd'),
        _ => format!("{}y", days / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_as_kubectl() {
        for (seconds, text) in [
            (-5, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (310, "5m10s"),
            (600, "10m"),
            (10_799, "179m"),
            (10_800, "3h"),
            (11_400, "3h10m"),
            (28_800, "8h"),
            (172_800, "2d"),
            (180_000, "2d2h"),
            (691_200, "8d"),
            (63_072_000, "2y"),
            (63_158_400, "2y1d"),
            (252_288_000, "8y"),
        ] {
            assert_eq!(human_duration(seconds), text, "{seconds}");
        }
        assert_eq!(age("rubbish", Timestamp::now()), "<unknown>");
    }
}
