//! Disks and images as files in a directory
