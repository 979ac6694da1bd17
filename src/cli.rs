//! stub
pub mod capture;
