//! A kind that is made at run time, and scale.

use anyhow::ensure;

use super::Kubectl;

pub fn chapter(kubectl: &Kubectl) -> anyhow::Result<()> {
    // kinds belong to no namespace: each kubectl makes one of its own
    let group = format!("{}.example.com", kubectl.namespace);
    let definition = format!("shelves.{group}");
    kubectl.manifest(
        &["apply"],
        &shelves(&group),
        &[&format!("customresourcedefinition.apiextensions.k8s.io/{definition} created")],
    )?;
    kubectl.ok(&["wait", "--for=condition=Established", &format!("crd/{definition}"), "--timeout=60s"])?;
    kubectl.says(&["get", "crd", &definition], &["CREATED AT"])?;
    kubectl.says(&["api-resources", &format!("--api-group={group}")], &["shelves", "shf", "Shelf"])?;
    kubectl.says(
        &["explain", "shelf.spec", &format!("--api-version={group}/v1")],
        &["boards", "How many boards it has."],
    )?;

    let shelf = format!("apiVersion: {group}/v1\nkind: Shelf\nmetadata: {{name: a}}\nspec: {{boards: 1}}\n");
    kubectl.manifest(&["apply"], &shelf, &["a created"])?;
    kubectl.manifest(&["apply"], &shelf, &["a unchanged"])?;
    let kind = &definition;
    kubectl.says(&["get", kind], &["BOARDS"])?;
    let material = kubectl.ok(&["get", kind, "a", "-o", "jsonpath={.spec.material}"])?;
    ensure!(material == "wood", "the default is {material:?}");
    kubectl.feed(&["apply", "-f", "-"], &shelf.replace("boards: 1", "boards: many"))?.failed(1, &["spec.boards"])?;

    kubectl.says(&["scale", kind, "a", "--replicas=3"], &["scaled"])?;
    let boards = || kubectl.ok(&["get", kind, "a", "-o", "jsonpath={.spec.boards}"]);
    ensure!(boards()? == "3");
    kubectl.ok(&["scale", kind, "a", "--current-replicas=3", "--replicas=2"])?;
    kubectl.fails(&["scale", kind, "a", "--current-replicas=3", "--replicas=5"], &["xpected"])?;
    ensure!(boards()? == "2");

    kubectl.ok(&["delete", "crd", &definition, "--timeout=60s"])?;
    kubectl.fails(&["get", kind], &["the server doesn't have a resource type"])
}

fn shelves(group: &str) -> String {
    format!(
        "apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {{name: shelves.{group}}}
spec:
  group: {group}
  scope: Namespaced
  names: {{plural: shelves, singular: shelf, kind: Shelf, listKind: ShelfList, shortNames: [shf]}}
  versions:
  - name: v1
    served: true
    storage: true
    additionalPrinterColumns:
    - {{name: Boards, type: integer, jsonPath: .spec.boards}}
    subresources:
      status: {{}}
      scale: {{specReplicasPath: .spec.boards, statusReplicasPath: .status.boards}}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            required: [boards]
            properties:
              boards: {{type: integer, minimum: 0, description: How many boards it has.}}
              material: {{type: string, default: wood}}
          status:
            type: object
            properties:
              boards: {{type: integer}}
"
    )
}
