//! Checks what the Rust client promises against the cluster at BOOTSTRAP:
//! `client-suite BOOTSTRAP [NEEDS,...] [NAME...]`. Prints `pass` and `FAIL` lines.

use std::process::ExitCode;
use tidelog_tests::client_suite;

#[tokio::main]
async fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let Some(bootstrap) = args.next() else {
        eprintln!("give the bootstrap servers");
        return ExitCode::FAILURE;
    };
    let needs = args
        .next()
        .unwrap_or_else(|| "core,groups,nextgen,transactions".to_owned());
    let needs: Vec<&str> = needs.split(',').collect();
    let only: Vec<String> = args.collect();
    match client_suite::run(&bootstrap, &needs, &only).await {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}
