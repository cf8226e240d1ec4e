"""An informer of Kubernetes' own client for Python. Prints what it holds, name to resourceVersion, whenever that has changed.

Usage: informer.py KUBECONFIG NAMESPACE
"""

import json
import sys
import time

from kubernetes import client, config
from kubernetes.informer import SharedInformer


def main():
    config.load_kube_config(sys.argv[1])
    informer = SharedInformer(client.CoordinationV1Api().list_namespaced_lease, namespace=sys.argv[2])
    informer.start()
    told = None
    while True:
        held = {lease.metadata.name: lease.metadata.resource_version for lease in informer.cache.list()}
        if held != told:
            print(json.dumps(held), flush=True)
            told = held
        time.sleep(0.1)


main()
