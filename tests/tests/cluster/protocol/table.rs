//! `docs/protocol.md` tells of the broker what the broker tells of itself.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::Advertised;

/// Rows of the document: `| name | key | ours | Kafka's | remark |`, `–` between versions, `—` for none.
fn documented() -> Result<Advertised> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/protocol.md");
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let mut table = Advertised::new();
    for line in text.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, _name, key, ours, ..] = cells[..] else {
            continue;
        };
        let (Ok(key), false) = (key.parse(), ours == "—") else {
            continue;
        };
        let (min, max) = ours.split_once('–').unwrap_or((ours, ours));
        table.insert(key, (min.parse()?, max.parse()?));
    }
    Ok(table)
}

/// The versions a running broker advertises are those of the document.
pub fn check_document(advertised: &Advertised) -> Result<()> {
    let documented = documented()?;
    ensure!(
        documented == *advertised,
        "docs/protocol.md says {documented:?}, the broker {advertised:?}"
    );
    Ok(())
}

/// Whether the document has this version among ours.
pub fn documented_here(key: i16, version: i16) -> bool {
    documented().is_ok_and(|table| {
        let range = table.get(&key);
        range.is_some_and(|(min, max)| (*min..=*max).contains(&version))
    })
}
