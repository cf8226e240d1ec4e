// An informer of Kubernetes' own client for JavaScript. Prints what it holds, name to resourceVersion, whenever that has changed.
//
// Usage: informer.js KUBECONFIG NAMESPACE

import { CoordinationV1Api, KubeConfig, makeInformer } from '@kubernetes/client-node';

const [file, namespace] = process.argv.slice(2);
const kubeconfig = new KubeConfig();
kubeconfig.loadFromFile(file);
const api = kubeconfig.makeApiClient(CoordinationV1Api);

const path = `/apis/coordination.k8s.io/v1/namespaces/${namespace}/leases`;
const informer = makeInformer(kubeconfig, path, () => api.listNamespacedLease({ namespace }));
const start = () =>
    informer.start().catch((error) => {
        console.error(`cannot list: ${error}`);
        setTimeout(start, 500);
    });
// it ends at an error, and whoever uses it starts it again: so the package's documentation has it
informer.on('error', (error) => {
    console.error(`informer: ${error}`);
    setTimeout(start, 500);
});
start();

let told;
setInterval(() => {
    const held = informer.list().map(({ metadata }) => [metadata.name, metadata.resourceVersion]);
    const now = JSON.stringify(Object.fromEntries(held.sort()));
    if (now !== told) {
        console.log(now);
        told = now;
    }
}, 100);
