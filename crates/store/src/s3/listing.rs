//! Pages of listings.

use sprite_types::Timestamp;

use super::xml;
use crate::backend::{ObjectInfo, Page};
use crate::{Failure, Prefix};

/// Largest page that is read, in bytes: a thousand names of the longest kind take 1.5 MB.
pub(super) const PAGE_BYTES_MAX: u64 = 8 << 20;

/// Reads a page of names below `base` and `prefix`. Names that are no keys are left out.
pub(super) fn read(document: &[u8], base: &str, prefix: &Prefix) -> Result<Page, Failure> {
    let malformed = || Failure::transient("the store's listing cannot be read");
    let document = std::str::from_utf8(document).map_err(|_| malformed())?;
    let mut reader =
        Reader { base, prefix, page: Page::default(), next: None, object: <_>::default() };
    let mut truncated = None;
    let mut leaves = Vec::new();
    xml::visit(document, "ListBucketResult", |path, value| leaves.push((path.to_owned(), value)))
        .map_err(|_| malformed())?;
    for (path, value) in leaves {
        match path.as_str() {
            "IsTruncated" => truncated = Some(value == "true"),
            "NextContinuationToken" => reader.next = Some(value),
            "Contents/Key" => reader.object.0 = value,
            "Contents/Size" => reader.object.1 = value.parse().ok(),
            "Contents/LastModified" => reader.object.2 = Timestamp::parse_rfc3339(&value),
            "Contents" => reader.object().ok_or_else(malformed)?,
            "CommonPrefixes/Prefix" => reader.folder(&value),
            _ => {}
        }
    }
    reader.page.next = match (truncated, reader.next) {
        (Some(false), _) => None,
        (Some(true), Some(token)) if !token.is_empty() => Some(token),
        // A page that does not say whether it is the last one is not to be trusted.
        _ => return Err(malformed()),
    };
    Ok(reader.page)
}

struct Reader<'a> {
    base: &'a str,
    prefix: &'a Prefix,
    page: Page,
    next: Option<String>,
    object: (String, Option<u64>, Option<Timestamp>),
}

impl Reader<'_> {
    /// Takes the object whose parts were read; `None` if it has no size or time.
    fn object(&mut self) -> Option<()> {
        let (name, size, modified) = std::mem::take(&mut self.object);
        let (size, modified) = (size?, modified?);
        let key = name.strip_prefix(self.base).and_then(|name| name.parse().ok());
        match key {
            Some(key) => {
                let info = ObjectInfo { key, size, modified };
                if info.key.is_under(self.prefix) {
                    self.page.objects.push(info);
                }
            }
            None => tracing::debug!("a foreign name in the store is passed over"),
        }
        Some(())
    }

    fn folder(&mut self, name: &str) {
        let folder = name.strip_prefix(self.base).and_then(|name| name.parse::<Prefix>().ok());
        self.page.folders.extend(folder.filter(|folder| folder.is_under(self.prefix)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>b</Name>
  <Prefix>in/orgs/</Prefix><KeyCount>4</KeyCount><MaxKeys>1000</MaxKeys>
  <IsTruncated>true</IsTruncated><NextContinuationToken>1u/&amp;=</NextContinuationToken>
  <Contents><Key>in/orgs/a</Key><LastModified>2026-01-13T10:30:00.000Z</LastModified>
    <ETag>&quot;x&quot;</ETag><Size>12</Size><StorageClass>STANDARD</StorageClass>
    <Owner><ID>1</ID></Owner></Contents>
  <Contents><Key>in/orgs/folder/</Key><LastModified>2026-01-13T10:30:00.000Z</LastModified>
    <Size>0</Size></Contents>
  <Contents><Key>in/orgs/with space &#x1;</Key><LastModified>2026-01-13T10:30:00Z</LastModified>
    <Size>0</Size></Contents>
  <Contents><Key>other/x</Key><LastModified>2026-01-13T10:30:00Z</LastModified><Size>1</Size></Contents>
  <CommonPrefixes><Prefix>in/orgs/o/</Prefix></CommonPrefixes>
</ListBucketResult>"#;

    fn page(text: &str) -> Result<Page, Failure> {
        read(text.as_bytes(), "in/", &"orgs/".parse().unwrap())
    }

    #[test]
    fn a_page_holds_our_names_without_the_stores_own_folder() {
        let page = page(PAGE).unwrap();
        assert_eq!(page.objects.len(), 1);
        assert_eq!(page.objects[0].key.as_str(), "orgs/a");
        assert_eq!(page.objects[0].size, 12);
        assert_eq!(page.objects[0].modified.rfc3339(), "2026-01-13T10:30:00.000000Z");
        assert_eq!(page.folders, ["orgs/o/".parse().unwrap()]);
        assert_eq!(page.next.as_deref(), Some("1u/&="));
    }

    #[test]
    fn half_a_page_is_none() {
        assert!(page(&PAGE.replace("<IsTruncated>true</IsTruncated>", "")).is_err());
        assert!(page(&PAGE.replace("<Size>12</Size>", "")).is_err());
        assert!(page(&PAGE.replace("1u/&amp;=", "")).is_err());
        assert!(page(&PAGE[..PAGE.len() - 5]).is_err());
        assert!(page("<html></html>").is_err());
        let last = page(&PAGE.replace("true", "false")).unwrap();
        assert_eq!(last.next, None);
    }
}
