//! Requests about the bucket: listings.

use std::collections::BTreeMap;
use std::fmt::Write;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Method};
use sprite_store::{ObjectInfo, Prefix};

use crate::reply::{Refusal, Reply, with_body};
use crate::server::State;

/// Most names on a page, as on S3.
const PAGE_NAMES_MAX: usize = 1000;

pub(crate) async fn bucket(head: &Parts, state: &State) -> Result<Reply, Refusal> {
    let query = head.uri.query().unwrap_or_default();
    let query: BTreeMap<String, String> =
        form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    let body = match head.method {
        Method::HEAD => String::new(),
        Method::GET if query.contains_key("location") => {
            "<LocationConstraint xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"/>".to_owned()
        }
        Method::GET if query.get("list-type").is_some_and(|kind| kind == "2") => {
            list(&query, state).await?
        }
        _ => return Err(Refusal::new(501, "NotImplemented")),
    };
    let mut reply = with_body(200, Bytes::from(body));
    reply.headers_mut().insert("content-type", HeaderValue::from_static("application/xml"));
    Ok(reply)
}

/// What one line of a listing is.
enum Entry {
    Object(ObjectInfo),
    Folder,
}

async fn list(query: &BTreeMap<String, String>, state: &State) -> Result<String, Refusal> {
    let get = |name: &str| query.get(name).map(String::as_str).unwrap_or_default();
    let (prefix, delimiter) = (get("prefix"), get("delimiter"));
    if !matches!(delimiter, "" | "/") {
        return Err(Refusal::new(501, "NotImplemented"));
    }
    let names_max = query.get("max-keys").and_then(|text| text.parse().ok());
    let names_max = names_max.unwrap_or(PAGE_NAMES_MAX).clamp(1, PAGE_NAMES_MAX);
    let after = query.get("continuation-token").or_else(|| query.get("start-after"));

    let mut entries = BTreeMap::new();
    for object in all(prefix, state).await? {
        let name = object.key.as_str();
        let Some(rest) = name.strip_prefix(prefix) else { continue };
        match rest.find('/') {
            Some(at) if delimiter == "/" => {
                entries.insert(name[..=prefix.len() + at].to_owned(), Entry::Folder);
            }
            _ => {
                entries.insert(name.to_owned(), Entry::Object(object));
            }
        }
    }
    let mut rest = entries.into_iter().filter(|(name, _)| after.is_none_or(|after| name > after));
    let page: Vec<(String, Entry)> = rest.by_ref().take(names_max).collect();
    let next = rest.next().and(page.last()).map(|(name, _)| name.clone());
    Ok(render(state, prefix, &page, next.as_deref(), get("encoding-type") == "url"))
}

/// Returns everything that can begin with the text.
async fn all(prefix: &str, state: &State) -> Result<Vec<ObjectInfo>, Refusal> {
    let folder = prefix.rfind('/').map_or("", |at| &prefix[..=at]);
    let Ok(folder) = folder.parse::<Prefix>() else { return Ok(Vec::new()) };
    let (mut objects, mut next) = (Vec::new(), None);
    loop {
        let page = state.backend.list(&folder, false, next.as_deref()).await?;
        objects.extend(page.objects);
        next = page.next;
        if next.is_none() {
            return Ok(objects);
        }
    }
}

fn render(
    state: &State,
    prefix: &str,
    page: &[(String, Entry)],
    next: Option<&str>,
    encoded: bool,
) -> String {
    // Names need no escapes in XML or URLs, but for `/`, which clients decode either way.
    let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<ListBucketResult>");
    let _ = write!(
        out,
        "<Name>{}</Name><Prefix>{}</Prefix><KeyCount>{}</KeyCount><IsTruncated>{}</IsTruncated>",
        state.options.bucket,
        if page.is_empty() { "" } else { prefix },
        page.len(),
        next.is_some()
    );
    if encoded {
        out.push_str("<EncodingType>url</EncodingType>");
    }
    if let Some(next) = next {
        let _ = write!(out, "<NextContinuationToken>{next}</NextContinuationToken>");
    }
    for (name, entry) in page {
        let _ = match entry {
            Entry::Folder => {
                write!(out, "<CommonPrefixes><Prefix>{name}</Prefix></CommonPrefixes>")
            }
            Entry::Object(object) => write!(
                out,
                "<Contents><Key>{name}</Key><LastModified>{}</LastModified><Size>{}</Size>\
                 <StorageClass>STANDARD</StorageClass></Contents>",
                object.modified, object.size
            ),
        };
    }
    out.push_str("</ListBucketResult>");
    out
}
