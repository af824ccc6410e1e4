//! order-service: see the README.
