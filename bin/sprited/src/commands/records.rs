//! What administration does to the catalog, the same over the socket and without one.

use sprite_catalog::{Catalog, CatalogError, Org};
use sprite_types::{ErrorKind, IdError, NameError, OrgSlug, TokenId};

use crate::admin::{MadeToken, NewOrg, NewToken, OrgEntry, TokenEntry};

/// Why an administrative call failed; its text is for the administrator.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordsError {
    /// The name is none.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The id is none.
    #[error(transparent)]
    Id(#[from] IdError),
    /// There is no such org.
    #[error("there is no org `{0}`: sprited org list shows them")]
    NoOrg(String),
    /// The catalog refused.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

impl RecordsError {
    /// Says what the caller does next.
    #[must_use]
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            Self::Name(_) | Self::Id(_) => ErrorKind::Invalid,
            Self::NoOrg(_) => ErrorKind::NotFound,
            Self::Catalog(error) => error.kind(),
        }
    }
}

fn entry(org: Org) -> OrgEntry {
    OrgEntry {
        id: org.id.to_string(),
        name: org.slug.to_string(),
        created_at: org.created_at.rfc3339(),
    }
}

async fn find(catalog: &Catalog, slug: &str) -> Result<Org, RecordsError> {
    let slug: OrgSlug = slug.parse()?;
    catalog.org_by_slug(&slug).await.ok_or_else(|| RecordsError::NoOrg(slug.to_string()))
}

pub(crate) async fn list_orgs(catalog: &Catalog) -> Vec<OrgEntry> {
    catalog.orgs().await.into_iter().map(entry).collect()
}

pub(crate) async fn create_org(catalog: &Catalog, new: &NewOrg) -> Result<OrgEntry, RecordsError> {
    Ok(entry(catalog.create_org(&new.name.parse()?).await?))
}

pub(crate) async fn create_token(
    catalog: &Catalog,
    new: &NewToken,
) -> Result<MadeToken, RecordsError> {
    let org = catalog.ensure_org(&new.org.parse()?).await?;
    let (record, token) = catalog.create_token(&org.id, &new.description).await?;
    Ok(MadeToken { id: record.id.to_string(), token })
}

pub(crate) async fn list_tokens(
    catalog: &Catalog,
    org: &str,
) -> Result<Vec<TokenEntry>, RecordsError> {
    let org = find(catalog, org).await?;
    let tokens = catalog.tokens(&org.id).await?.into_iter().map(|token| TokenEntry {
        id: token.id.to_string(),
        description: token.description,
        created_at: token.created_at.rfc3339(),
    });
    Ok(tokens.collect())
}

pub(crate) async fn revoke_token(
    catalog: &Catalog,
    org: &str,
    id: &str,
) -> Result<(), RecordsError> {
    let org = find(catalog, org).await?;
    let id: TokenId = id.parse()?;
    Ok(catalog.revoke_token(&org.id, &id).await?)
}
