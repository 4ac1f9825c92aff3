import { CfnOutput, Stack, StackProps } from 'aws-cdk-lib';
import { Construct } from 'constructs';
import { Cluster } from './cluster';
import { DeploymentSettings } from './config';
import { ControlPlane } from './control-plane';
import type { Architecture } from './function-zip';
import { LeaseTable } from './lease-table';

export interface LeaseholdStackProps extends StackProps {
  readonly settings: DeploymentSettings;
  /** Folder with the functions' zips. */
  readonly assets: string;
  readonly architecture: Architecture;
}

/** A whole deployment: one table, one control plane, any number of clusters. */
export class LeaseholdStack extends Stack {
  constructor(scope: Construct, id: string, props: LeaseholdStackProps) {
    super(scope, id, { description: 'leasehold: high availability decided from outside the instances', ...props });
    const { settings } = props;
    const deployment = settings.deployment;

    const { table } = new LeaseTable(this, 'LeaseTable', {
      tableName: deployment,
      deletionProtection: settings.table.deletionProtection,
    });
    const control = new ControlPlane(this, 'ControlPlane', {
      deployment,
      table,
      clusters: settings.clusters.map((c) => c.name),
      reach: {
        instances: distinct(settings.clusters.flatMap((c) => c.nodes.map((n) => n.instance))),
        routeTables: distinct(settings.clusters.flatMap((c) => c.virtualIps.flatMap((ip) => ip.routeTables))),
        networkInterfaces: distinct(settings.clusters.flatMap((c) => c.nodes.map((n) => n.eni))),
        stoppable: distinct(settings.clusters.filter((c) => c.allowForceStop).flatMap((c) => c.nodes.map((n) => n.instance))),
      },
      assets: props.assets,
      architecture: props.architecture,
      logRetention: settings.functions.logRetentionDays,
    });

    this.output('TableName', table.tableName, 'lease rows, configs, heartbeats, history');
    this.output('BusName', control.bus.eventBusName, 'nodes put their events here');
    this.output('FailoverFunctionName', control.failover.function.functionName, 'invoke it to see, plan or switch over');
    this.output('WatchFunctionName', control.watch.function.functionName, 'runs each minute');
    this.output('ConfigureFunctionName', control.configure.function.functionName, 'checks and stores configs');
    this.output('FailuresQueueUrl', control.failures.queueUrl, 'events that nobody could handle: should be empty');

    for (const cluster of settings.clusters) {
      const { nodes } = new Cluster(this, `Cluster-${cluster.name}`, {
        deployment,
        settings: cluster,
        table,
        control,
      });
      for (const [node, access] of nodes) {
        this.output(
          `NodeProfile${camel(cluster.name)}${camel(node)}`,
          access.instanceProfile.instanceProfileName,
          `instance profile of node ${node} of cluster ${cluster.name}`,
        );
      }
    }
  }

  private output(name: string, value: string, description: string): void {
    new CfnOutput(this, name, { value, description });
  }
}

/** "web-1" as "Web1": output names hold letters and digits only. */
function camel(name: string): string {
  return name.replace(/(^|-)([a-z0-9])/g, (_, __, first: string) => first.toUpperCase());
}

function distinct(ids: readonly string[]): string[] {
  return [...new Set(ids)].sort();
}
