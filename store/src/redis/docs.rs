//! Documents: a hash per kind with a sorted list of the live names, changed by `doc.lua`.

use bytes::Bytes;
use lovage_core::Ns;
use redis::Value;

use super::keys::{DocKeys, doc_name};
use super::link::{Kind, Link};
use super::pack::Packer;
use super::script::DOC;
use super::value;
use crate::{DocGuard, DocKind, DocOutcome, DocPage, DocPut, Document, Error, Result};

/// The most documents of one page.
const MAX_PAGE: usize = 500;

pub(super) async fn page(
    link: &Link,
    keys: &DocKeys,
    kind: DocKind,
    ns: Option<Ns>,
    after: Option<(Ns, String)>,
    limit: usize,
) -> Result<DocPage> {
    let limit = limit.clamp(1, MAX_PAGE);
    let first = match (after, ns) {
        (Some((ns, name)), _) => [b"(", &doc_name(ns, &name)[..]].concat(),
        (None, Some(ns)) => [b"[", &doc_name(ns, "")[..]].concat(),
        (None, None) => b"-".to_vec(),
    };
    let end = match ns.map(|ns| ns.0.checked_add(1)) {
        Some(Some(next)) => [b"(", &doc_name(Ns(next), "")[..]].concat(),
        Some(None) | None => b"+".to_vec(),
    };
    let mut cmd = redis::cmd("ZRANGE");
    cmd.arg(keys.names(kind)).arg(first).arg(end).arg("BYLEX").arg("LIMIT").arg(0).arg(limit + 1);
    let names = value::list(link.send(Kind::Read, &cmd).await?)?;
    let mut names = names.into_iter().map(|name| Ok(value::bytes(name)?.unwrap_or_default())).collect::<Result<Vec<_>>>()?;
    let more = names.len() > limit;
    names.truncate(limit);
    if names.is_empty() {
        return Ok(DocPage::default());
    }
    let mut cmd = redis::cmd("HMGET");
    cmd.arg(keys.docs(kind));
    for name in &names {
        cmd.arg(&name[..]);
    }
    let mut page = DocPage::default();
    for (name, stored) in names.iter().zip(value::list(link.send(Kind::Read, &cmd).await?)?) {
        let (ns, name) = read_name(name)?;
        page.items.extend(read(kind, ns, &name, stored)?);
        page.next = more.then_some((ns, name));
    }
    Ok(page)
}

pub(super) async fn get(link: &Link, keys: &DocKeys, kind: DocKind, ns: Ns, name: &str) -> Result<Option<Document>> {
    let mut cmd = redis::cmd("HGET");
    cmd.arg(keys.docs(kind)).arg(doc_name(ns, name));
    read(kind, ns, name, link.send(Kind::Read, &cmd).await?)
}

pub(super) async fn put(link: &Link, keys: &DocKeys, items: &[DocPut]) -> Result<Vec<DocOutcome>> {
    let mut kinds: Vec<DocKind> = Vec::new();
    let mut out = Packer::default();
    out.array(items.len());
    for item in items {
        let place = kinds.iter().position(|kind| *kind == item.kind).unwrap_or_else(|| {
            kinds.push(item.kind);
            kinds.len() - 1
        });
        let (guard, version) = match item.guard {
            DocGuard::Absent => (b'A', 0),
            DocGuard::Version(version) => (b'V', version),
            DocGuard::Any => (b'*', 0),
        };
        let first = 3 + 2 * place as u64;
        out.array(7).number(first).number(first + 1).bytes(&doc_name(item.ns, &item.name)).bytes(&[guard]);
        out.bytes(&u64::to_be_bytes(version))
            .number(u64::from(item.bytes.is_some()))
            .bytes(item.bytes.as_deref().unwrap_or_default());
    }
    let names =
        [keys.changes(), keys.feed()].into_iter().chain(kinds.iter().flat_map(|kind| [keys.docs(*kind), keys.names(*kind)]));
    let names: Vec<_> = names.collect();
    let mut cmd = DOC.call(names.iter());
    cmd.arg(out.finish());
    let answer = link.run(Kind::Write, &DOC, cmd, None).await?.pop().unwrap_or_default();
    value::list(answer)?.into_iter().zip(items).map(|(answer, item)| read_outcome(answer, item)).collect()
}

fn read_outcome(answer: Value, item: &DocPut) -> Result<DocOutcome> {
    let mut parts = value::list(answer)?.into_iter();
    let mut part = || parts.next().unwrap_or_default();
    if value::number(part())? == 0 {
        return Ok(DocOutcome::Refused(read(item.kind, item.ns, &item.name, part())?));
    }
    let version = value::bytes(part())?.and_then(|version| version.try_into().ok()).map(u64::from_be_bytes);
    let version = version.ok_or_else(|| Error::Corrupt("the version of a document cannot be read".into()))?;
    Ok(DocOutcome::Ok { version, created: value::number(part())? == 1 })
}

/// How often a document was changed.
pub(super) async fn changes(link: &Link, keys: &DocKeys) -> Result<u64> {
    let mut cmd = redis::cmd("GET");
    cmd.arg(keys.changes());
    value::number(link.send(Kind::Read, &cmd).await?)
}

/// Reads `version ‖ live ‖ bytes`; `None` if there is none or it was deleted.
fn read(kind: DocKind, ns: Ns, name: &str, stored: Value) -> Result<Option<Document>> {
    let Some(stored) = value::bytes(stored)?.map(Bytes::from) else { return Ok(None) };
    let bad = || Error::Corrupt("a stored document cannot be read".into());
    let (version, rest) = stored.split_first_chunk::<8>().ok_or_else(bad)?;
    let live = *rest.first().ok_or_else(bad)? == 1;
    let document =
        Document { kind, ns, name: name.to_owned(), version: u64::from_be_bytes(*version), bytes: Some(stored.slice(9..)) };
    Ok(live.then_some(document))
}

fn read_name(name: &[u8]) -> Result<(Ns, String)> {
    let parts = name.split_first_chunk::<4>().and_then(|(ns, name)| Some((ns, String::from_utf8(name.to_vec()).ok()?)));
    let (ns, name) = parts.ok_or_else(|| Error::Corrupt("the name of a document cannot be read".into()))?;
    Ok((Ns(u32::from_be_bytes(*ns)), name))
}
