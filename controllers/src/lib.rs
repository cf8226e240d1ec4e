//! ucloud-controllers: the reconcilers that need no host
