//! What of some bytes is asked for, and on which condition (RFC 9110, 13 and 14).

use std::ops::Range;

use axum::{
    body::Body,
    http::{
        HeaderMap, HeaderName, HeaderValue, StatusCode,
        header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_MATCH, IF_RANGE, RANGE},
    },
    response::{IntoResponse as _, Response},
};

use super::refusal::Refusal;

/// What of some bytes is asked for.
#[derive(Debug)]
pub struct Part<'a> {
    range: Range<u64>,
    /// How many there are.
    size: u64,
    /// What tells them from others.
    tag: &'a str,
    /// Whether less than all may have been asked for.
    is_partial: bool,
}

/// A tag as it stands in a header.
pub fn quoted(tag: &str) -> String {
    format!("\"{tag}\"")
}

impl<'a> Part<'a> {
    /// What the headers of a request ask for.
    pub fn asked(headers: &HeaderMap, size: u64, tag: &'a str) -> Result<Self, Refusal> {
        let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let own = quoted(tag);
        let is_own = |tags: &str| tags.split(',').any(|tag| ["*", own.as_str()].contains(&tag.trim()));
        if text(IF_MATCH).is_some_and(|tags| !is_own(tags)) {
            let message = "it does not hold any more what it held when the download began: download it anew";
            return Err(Refusal::new(StatusCode::PRECONDITION_FAILED, message));
        }
        let asked = text(RANGE).filter(|_| text(IF_RANGE).is_none_or(|tag| tag == own)).and_then(parse_range);
        let (range, is_partial) = match asked {
            None => (0..size, false),
            Some((first, _)) if first >= size => {
                let refusal = Refusal::new(StatusCode::RANGE_NOT_SATISFIABLE, format!("there are {size} bytes"));
                return Err(match HeaderValue::try_from(format!("bytes */{size}")) {
                    Ok(range) => refusal.with(CONTENT_RANGE, range),
                    Err(_) => refusal,
                });
            }
            Some((first, last)) => (first..last.map_or(size, |last| last.saturating_add(1).min(size)), true),
        };
        Ok(Self { range, size, tag, is_partial })
    }

    /// Which bytes.
    pub fn range(&self) -> Range<u64> {
        self.range.clone()
    }

    /// The answer, with these bytes as its body.
    pub fn answer(&self, body: Body) -> Response {
        let mut response = body.into_response();
        let Range { start, end } = self.range;
        if self.is_partial {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        }
        let headers = response.headers_mut();
        if self.is_partial
            && let Ok(range) = format!("bytes {start}-{}/{}", end - 1, self.size).parse()
        {
            headers.insert(CONTENT_RANGE, range);
        }
        if let Ok(tag) = quoted(self.tag).parse() {
            headers.insert(ETAG, tag);
        }
        headers.insert(CONTENT_LENGTH, (end - start).into());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        response
    }
}

/// `bytes=FIRST-` or `bytes=FIRST-LAST` (RFC 9110, 14.1.2). Any other range may be ignored, and is.
fn parse_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let first = first.parse().ok()?;
    if last.is_empty() {
        return Some((first, None));
    }
    let last = last.parse().ok()?;
    (first <= last).then_some((first, Some(last)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        assert_eq!(parse_range("bytes=5-"), Some((5, None)));
        assert_eq!(parse_range("bytes=5-5"), Some((5, Some(5))));
        for ignored in ["", "bytes=", "bytes=-5", "bytes=5-4", "bytes=0-1,3-4", "lines=1-2", "bytes=a-"] {
            assert_eq!(parse_range(ignored), None, "{ignored}");
        }
    }

    fn asked(headers: &[(HeaderName, &'static str)]) -> Result<Part<'static>, Refusal> {
        let headers = headers.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect();
        Part::asked(&headers, 10, "a")
    }

    #[test]
    fn what_is_asked_for_is_what_there_is() {
        for (range, expected) in [("bytes=3-", 3..10), ("bytes=3-5", 3..6), ("bytes=9-99", 9..10), ("bytes=-1", 0..10)]
        {
            assert_eq!(asked(&[(RANGE, range)]).unwrap().range(), expected, "{range}");
        }
        let answer = asked(&[(RANGE, "bytes=3-5")]).unwrap().answer(Body::empty());
        let header = |name: HeaderName| answer.headers()[name].to_str().unwrap();
        assert_eq!(answer.status(), StatusCode::PARTIAL_CONTENT);
        assert_eq!((header(CONTENT_RANGE), header(CONTENT_LENGTH), header(ETAG)), ("bytes 3-5/10", "3", "\"a\""));
        assert_eq!(asked(&[]).unwrap().answer(Body::empty()).status(), StatusCode::OK);
        assert_eq!(asked(&[(RANGE, "bytes=10-")]).unwrap_err().code, StatusCode::RANGE_NOT_SATISFIABLE);
    }

    #[test]
    fn parts_of_other_bytes_are_not_given() {
        for same in ["\"a\"", "*", "\"b\", \"a\""] {
            asked(&[(IF_MATCH, same)]).unwrap();
        }
        for other in ["\"b\"", "a", "W/\"a\""] {
            assert_eq!(asked(&[(IF_MATCH, other)]).unwrap_err().code, StatusCode::PRECONDITION_FAILED, "{other}");
        }
        let range = |tag| asked(&[(RANGE, "bytes=3-"), (IF_RANGE, tag)]).unwrap().range();
        assert_eq!((range("\"a\""), range("\"b\"")), (3..10, 0..10));
    }
}
