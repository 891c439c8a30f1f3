//! Tidelog.
