//! The Kafka listener, one file per API.
