//! The report as one page without any library: faults as bands, latency as dots, throughput as a line.

use std::fmt::Write as _;

use super::recorder::Timed;
use super::verdict::Verdict;
use crate::history::Kind;

const WIDTH: f64 = 1_200.0;
const HEIGHT: f64 = 260.0;
/// More dots than this say nothing more.
const DOTS_MAX: usize = 6_000;

/// The whole page.
#[must_use]
pub fn page(verdict: &Verdict, timed: &[Timed]) -> String {
    let colour = if verdict.is_valid() {
        "#187a2f"
    } else {
        "#b3261e"
    };
    let text = escape(&verdict.to_string());
    let mut faults = String::new();
    for span in &verdict.spans {
        let (from, to) = (span.began_ms as f64 / 1e3, span.ended_ms as f64 / 1e3);
        let name = escape(&span.fault);
        let _ = write!(
            faults,
            "<tr><td>{from:.1}</td><td>{to:.1}</td><td>{name}</td></tr>"
        );
    }
    format!(
        "<!doctype html><meta charset=utf-8><title>seed {seed}</title>\
         <style>body{{font:14px sans-serif;margin:2em}}td{{padding:0 1em 0 0}}svg{{background:#fafafa;\
         border:1px solid #ddd;margin:0 0 1em}}pre{{background:#f4f4f4;padding:1em;overflow:auto}}</style>\
         <h1 style='color:{colour}'>seed {seed}: {word}</h1>\
         <h2>Latency (log scale, 1 ms to 100 s)</h2>\
         <p>Each dot ends an operation: blue a send, green a transaction, grey a poll, red of unknown end, \
         orange aborted. Bands are faults.</p>{latency}\
         <h2>Records a second</h2>{throughput}\
         <h2>Faults</h2><table><tr><th>from s<th>to s<th>what</tr>{faults}</table>\
         <h2>Verdict</h2><pre>{text}</pre>",
        seed = verdict.seed,
        word = if verdict.is_valid() {
            "no anomaly"
        } else {
            "ANOMALIES"
        },
        latency = latency(verdict, timed),
        throughput = throughput(verdict, timed),
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

fn x(verdict: &Verdict, at_ms: u64) -> f64 {
    at_ms as f64 / verdict.millis.max(1) as f64 * WIDTH
}

fn frame(verdict: &Verdict, inside: &str) -> String {
    let mut svg = format!("<svg width={WIDTH} height={}>", HEIGHT + 20.0);
    for span in &verdict.spans {
        let (from, to) = (x(verdict, span.began_ms), x(verdict, span.ended_ms));
        let _ = write!(
            svg,
            "<rect x={from:.1} y=0 width={:.1} height={HEIGHT} fill='#f2c9c5' opacity=0.6><title>{}</title></rect>",
            to - from,
            escape(&span.fault)
        );
    }
    for tick in 0..=10 {
        let at_ms = verdict.millis * tick / 10;
        let at = x(verdict, at_ms).min(WIDTH - 30.0);
        let _ = write!(
            svg,
            "<text x={at:.1} y={} font-size=11>{} s</text>",
            HEIGHT + 15.0,
            at_ms / 1_000
        );
    }
    svg + inside + "</svg>"
}

fn latency(verdict: &Verdict, timed: &[Timed]) -> String {
    let mut dots = String::new();
    let every = timed.len() / DOTS_MAX + 1;
    // What went wrong is never thinned out.
    let shown = timed
        .iter()
        .enumerate()
        .filter(|(n, t)| n % every == 0 || t.kind != Kind::Ok);
    for (_, op) in shown {
        let took_ms = (op.ended_ms.saturating_sub(op.began_ms)).max(1) as f64;
        let y = HEIGHT - took_ms.log10() / 5.0 * HEIGHT;
        let colour = match (op.kind, op.f) {
            (Kind::Info, _) => "#b3261e",
            (Kind::Fail, _) => "#e08a00",
            (_, "send") => "#1f5fbf",
            (_, "txn") => "#187a2f",
            _ => "#999",
        };
        let at = x(verdict, op.ended_ms);
        let _ = write!(
            dots,
            "<circle cx={at:.1} cy={y:.1} r=1.5 fill='{colour}' />"
        );
    }
    frame(verdict, &dots)
}

fn throughput(verdict: &Verdict, timed: &[Timed]) -> String {
    let seconds = (verdict.millis / 1_000 + 1) as usize;
    let mut lines = String::new();
    for (names, colour) in [(["send", "txn"], "#1f5fbf"), (["poll", "poll"], "#999")] {
        let mut counts = vec![0_usize; seconds];
        for op in timed
            .iter()
            .filter(|op| names.contains(&op.f) && op.kind == Kind::Ok)
        {
            if let Some(count) = counts.get_mut((op.ended_ms / 1_000) as usize) {
                *count += op.records;
            }
        }
        let most = counts.iter().copied().max().unwrap_or(0).max(1);
        let mut points = String::new();
        for (second, count) in counts.iter().enumerate() {
            let y = HEIGHT - *count as f64 / most as f64 * (HEIGHT - 15.0);
            let _ = write!(points, "{:.1},{y:.1} ", x(verdict, second as u64 * 1_000));
        }
        let word = if names[0] == "send" {
            "written"
        } else {
            "read"
        };
        let y = if names[0] == "send" { 12 } else { 26 };
        let _ = write!(
            lines,
            "<polyline points='{points}' fill=none stroke='{colour}' />\
             <text x=4 y={y} font-size=11 fill='{colour}'>{word}: most {most}/s</text>"
        );
    }
    frame(verdict, &lines)
}
