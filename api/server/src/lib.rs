//! ucloud-api: the API server of ucloud
