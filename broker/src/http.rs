//! `/healthz`, `/readyz`, `/metrics`.
