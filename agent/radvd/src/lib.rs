//! Router advertisements by radvd
