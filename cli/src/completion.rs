//! `tidelog completion` and `tidelog man`: what shells and `man` know of the commands, written from
//! the same definitions as the commands themselves.

use anyhow::{Context, Result};
use clap::{Args, Command};
use clap_complete::Shell;
use std::io::Write;
use std::path::{Path, PathBuf};

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  tidelog completion bash > /etc/bash_completion.d/tidelog\n  \
                  tidelog completion zsh > ~/.zfunc/_tidelog\n  \
                  tidelog completion fish > ~/.config/fish/completions/tidelog.fish"
)]
pub struct Completion {
    shell: Shell,
}

impl Completion {
    pub fn run(self, mut command: Command) -> Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, "tidelog", &mut script);
        match std::io::stdout().write_all(&script) {
            // The reader of a pipe had enough.
            Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            other => Ok(other?),
        }
    }
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tidelog man /usr/local/share/man/man1")]
pub struct Man {
    /// The folder to write to; made if it is not there
    folder: PathBuf,
}

impl Man {
    pub fn run(self, mut command: Command) -> Result<()> {
        let folder = &self.folder;
        std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        command.build();
        write_pages(&command, "tidelog", folder)
    }
}

/// One page for the command and each of its subcommands.
fn write_pages(command: &Command, name: &str, folder: &Path) -> Result<()> {
    let page = folder.join(format!("{name}.1"));
    let mut text = Vec::new();
    let title = clap_mangen::Man::new(command.clone()).title(name.to_uppercase());
    title.render(&mut text)?;
    std::fs::write(&page, text).with_context(|| format!("write {}", page.display()))?;
    let subcommands = command.get_subcommands().filter(|c| c.get_name() != "help");
    for subcommand in subcommands {
        write_pages(
            subcommand,
            &format!("{name}-{}", subcommand.get_name()),
            folder,
        )?;
    }
    Ok(())
}
