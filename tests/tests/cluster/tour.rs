//! The command line's tour, `docs/cli.md`, and the operators' page, `docs/operations.md`, run line by line.

use anyhow::{Context, Result, ensure};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use tempfile::TempDir;
use tidelog_tests::{Cluster, ClusterOptions, cluster};

/// A command and what the page says that it prints.
#[derive(Debug, PartialEq, Eq)]
struct Step {
    command: String,
    expected: Vec<String>,
}

/// The steps of the page's `console` blocks.
fn steps(page: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut inside = false;
    for line in page.lines() {
        if line.starts_with("```") {
            inside = line == "```console";
        } else if !inside {
        } else if let Some(command) = line.strip_prefix("$ ") {
            steps.push(Step {
                command: command.to_owned(),
                expected: Vec::new(),
            });
        } else if let Some(step) = steps.last_mut() {
            step.expected.push(line.to_owned());
        }
    }
    steps
}

/// Whether a printed line is the expected one. `…` stands for anything but nothing; the amount of
/// blanks is not compared.
fn matches(expected: &str, printed: &str) -> bool {
    let one_blank = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let (expected, printed) = (one_blank(expected), one_blank(printed));
    let mut pieces = expected.split('…');
    let first = pieces.next().unwrap_or_default();
    let Some(mut rest) = printed.strip_prefix(first) else {
        return false;
    };
    let mut pieces = pieces.peekable();
    while let Some(piece) = pieces.next() {
        let at = if pieces.peek().is_none() {
            // The last piece is the end of the line.
            rest.ends_with(piece).then(|| rest.len() - piece.len())
        } else {
            let from = rest.chars().next().map_or(0, char::len_utf8);
            rest[from..].find(piece).map(|at| at + from)
        };
        match at {
            Some(at) if at > 0 => rest = &rest[at + piece.len()..],
            _ => return false,
        }
    }
    rest.is_empty()
}

fn run(command: &str, folder: &Path, bootstrap: &str) -> Result<Vec<String>> {
    let binary = cluster::binary()?;
    let beside = binary.parent().context("the binary's folder")?;
    let path = std::env::var("PATH")?;
    let output = Command::new("sh")
        .args(["-c", &format!("({command}) 2>&1")])
        .current_dir(folder)
        .env("PATH", format!("{}:{path}", beside.display()))
        .env("TIDELOG_BOOTSTRAP", bootstrap)
        .env_remove("TIDELOG_PROFILE")
        .env("TIDELOG_PROFILES", folder.join("none.toml"))
        .stdin(Stdio::null())
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    Ok(text.lines().map(str::to_owned).collect())
}

/// Runs the commands of a page of `docs/` in `folder` and compares what they print.
fn shows(page: &str, at_least: usize, folder: &Path, bootstrap: &str) -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../docs")
        .join(page);
    let steps = steps(&std::fs::read_to_string(path)?);
    ensure!(steps.len() >= at_least, "only {} steps", steps.len());
    for Step { command, expected } in steps {
        let printed = run(&command, folder, bootstrap)?;
        let same = printed.len() == expected.len()
            && expected.iter().zip(&printed).all(|(e, p)| matches(e, p));
        ensure!(
            same,
            "docs/{page} says of `{command}`:\n{}\nit prints:\n{}",
            expected.join("\n"),
            printed.join("\n")
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tour_shows_what_the_commands_print() -> Result<()> {
    let cluster = Cluster::start_with(ClusterOptions {
        brokers: 1,
        ..ClusterOptions::default()
    })
    .await?;
    let folder = TempDir::new()?;
    std::fs::create_dir(folder.path().join("tidelog-data"))?;
    let data = &cluster.broker(1).data_dir;
    symlink(data, folder.path().join("tidelog-data/1"))?;
    shows("cli.md", 21, folder.path(), &cluster.bootstrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operators_page_shows_what_the_commands_print() -> Result<()> {
    let cluster = Cluster::start().await?;
    let folder = TempDir::new()?;
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
    symlink(deploy, folder.path().join("deploy"))?;
    shows("operations.md", 11, folder.path(), &cluster.bootstrap())
}

#[test]
fn an_ellipsis_stands_for_something() {
    assert!(matches("a  b", "a b"));
    assert!(matches("at … ms, …", "at 1.2 ms, 3"));
    assert!(!matches("at … ms", "at  ms"));
    assert!(!matches("a", "ab"));
    assert!(!matches("… b", "a b c"));
    let read = steps("```text\n$ no\n```\n```console\n$ yes\nx\n```\n");
    assert_eq!(read.len(), 1);
    assert_eq!(read[0].expected, ["x"]);
}
