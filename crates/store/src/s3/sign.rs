//! Signatures of requests. Source: AWS Signature Version 4 for S3, *Authenticating Requests:
//! Using the Authorization Header*.

#![cfg_attr(
    not(any(test, feature = "test-util")),
    expect(unreachable_pub, reason = "the test server checks signatures with the same code")
)]

use ring::{digest, hmac};
use sprite_types::Timestamp;

use super::credentials::Credentials;

/// The parts of a request that are signed.
pub struct Canonical<'a> {
    /// Upper case.
    pub method: &'a str,
    /// Absolute and percent-encoded, as sent.
    pub path: &'a str,
    /// Percent-encoded names and values, in any order.
    pub query: &'a [(String, String)],
    /// Lower-case names, in any order; the ones that are sent and must not be changed.
    pub headers: &'a [(String, String)],
    /// What the header `x-amz-content-sha256` says.
    pub payload: &'a str,
}

/// Returns the lower-case hex form of the SHA-256 of `bytes`.
#[must_use]
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

/// Returns a moment as `YYYYMMDDTHHMMSSZ`.
#[must_use]
pub(super) fn amz_date(at: Timestamp) -> String {
    let text = at.rfc3339();
    let digits: String = text.chars().take(19).filter(|c| !matches!(c, '-' | ':')).collect();
    format!("{digits}Z")
}

/// Returns the value of the header `Authorization`; `date` is as from [`amz_date`].
#[must_use]
pub fn authorization(
    request: &Canonical<'_>,
    credentials: &Credentials,
    region: &str,
    date: &str,
) -> String {
    let day = date.get(..8).unwrap_or(date);
    let scope = format!("{day}/{region}/s3/aws4_request");
    let (canonical, signed) = canonical_request(request);
    let to_sign =
        format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", sha256_hex(canonical.as_bytes()));
    let mut key = mac(format!("AWS4{}", credentials.secret_key).as_bytes(), day);
    for part in [region, "s3", "aws4_request", &to_sign] {
        key = mac(key.as_ref(), part);
    }
    format!(
        "AWS4-HMAC-SHA256 Credential={}/{scope},SignedHeaders={signed},Signature={}",
        credentials.access_key,
        hex(key.as_ref())
    )
}

/// Returns the text that is hashed, and the names of the signed headers.
fn canonical_request(request: &Canonical<'_>) -> (String, String) {
    let mut query = request.query.to_vec();
    query.sort();
    let query: Vec<String> = query.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let mut headers = request.headers.to_vec();
    headers.sort();
    let signed: Vec<&str> = headers.iter().map(|(name, _)| name.as_str()).collect();
    let signed = signed.join(";");
    let headers: String =
        headers.iter().map(|(name, value)| format!("{name}:{}\n", value.trim())).collect();
    let Canonical { method, path, payload, .. } = request;
    let query = query.join("&");
    (format!("{method}\n{path}\n{query}\n{headers}\n{signed}\n{payload}"), signed)
}

fn mac(key: &[u8], text: &str) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn signature(
        method: &str,
        path: &str,
        query: &[(&str, &str)],
        headers: &[(&str, &str)],
        payload: &str,
    ) -> String {
        let own = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let mut headers = own(headers);
        headers.extend(own(&[
            ("host", "examplebucket.s3.amazonaws.com"),
            ("x-amz-content-sha256", payload),
            ("x-amz-date", "20130524T000000Z"),
        ]));
        let (query, headers) = (own(query), headers);
        let request = Canonical { method, path, query: &query, headers: &headers, payload };
        let credentials = Credentials::new(
            "AKIAIOSFODNN7EXAMPLE",
            "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
            None,
        );
        let text = authorization(&request, &credentials, "us-east-1", "20130524T000000Z");
        let (head, signature) = text.split_once(",Signature=").unwrap();
        assert!(head.starts_with(
            "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,"
        ));
        signature.to_owned()
    }

    /// Source: the four examples of the page named above.
    #[test]
    fn signatures_equal_the_published_examples() {
        let get = signature("GET", "/test.txt", &[], &[("range", "bytes=0-9")], EMPTY);
        assert_eq!(get, "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41");
        let body = sha256_hex(b"Welcome to Amazon S3.");
        let headers = [
            ("date", "Fri, 24 May 2013 00:00:00 GMT"),
            ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
        ];
        let put = signature("PUT", "/test%24file.text", &[], &headers, &body);
        assert_eq!(put, "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd");
        let lifecycle = signature("GET", "/", &[("lifecycle", "")], &[], EMPTY);
        assert_eq!(lifecycle, "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543");
        let list = signature("GET", "/", &[("prefix", "J"), ("max-keys", "2")], &[], EMPTY);
        assert_eq!(list, "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7");
    }

    #[test]
    fn dates_have_the_form_of_signatures() {
        assert_eq!(amz_date(Timestamp::from_micros(1_369_353_600_999_999)), "20130524T000000Z");
        assert_eq!(sha256_hex(b""), EMPTY);
    }
}
