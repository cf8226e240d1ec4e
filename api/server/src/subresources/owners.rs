//! `POST hosts/NAME/owners`: tells a host which of the UIDs that it has found are those of no object.
//!
//! An agent sees the VMs of its own host alone. In pools that all hosts share it finds the disks of others, and before it destroys
//! anything it has to know of everybody's. It learns nothing but that somebody has a UID which it knew already.

use async_trait::async_trait;
use ucloud_machinery::{
    status::ApiError,
    strategy::{Method, SubresourceHandler, SubresourceRequest, SubresourceResponse},
};
use ucloud_types::orphan::{OwnerReview, OwnerReviewStatus};

use crate::owners;

/// Serves the subresource.
pub struct OwnersHandler;

#[async_trait]
impl SubresourceHandler for OwnersHandler {
    fn methods(&self) -> &'static [Method] {
        &[Method::Create]
    }

    fn kind(&self) -> &'static str {
        OwnerReview::KIND
    }

    async fn handle(&self, request: SubresourceRequest<'_>) -> Result<SubresourceResponse, ApiError> {
        let kind = OwnerReview::KIND;
        let body = request.body.ok_or_else(|| ApiError::bad_request(format!("the body must be an {kind}")))?;
        let mut review: OwnerReview = serde_json::from_value(body)
            .map_err(|error| ApiError::bad_request(format!("the body is no {kind}: {error}")))?;
        // A consistent read: from here on the cache knows every object that was there when the question came
        request.target.get().await?;
        let missing = owners::missing(review.spec.uids.clone(), request.context.lister);
        review.status = Some(OwnerReviewStatus { missing });
        let answer = serde_json::to_value(review).map_err(ApiError::internal)?;
        Ok(SubresourceResponse::ok(answer))
    }
}
