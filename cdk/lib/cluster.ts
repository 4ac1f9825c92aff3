import { CustomResource, Duration } from 'aws-cdk-lib';
import * as dynamodb from 'aws-cdk-lib/aws-dynamodb';
import { Construct } from 'constructs';
import { ClusterSettings } from './config';
import { ClusterConfig, contract } from './contract';
import type { ControlPlane } from './control-plane';
import { NodeAccess } from './node-access';

export interface ClusterProps {
  readonly deployment: string;
  readonly settings: ClusterSettings;
  readonly table: dynamodb.ITable;
  readonly control: ControlPlane;
}

/**
 * One cluster: its nodes' access and its config item.
 *
 * The config item is written by the configure function on CloudFormation's request, so that it passes the same checks
 * as the functions that read it, against the real network. What they refuse (an address inside the VPC's own range, a
 * listed route table without the route, a route in a table that is not listed, timers that contradict each other) fails
 * the deployment with the reason, and CloudFormation restores the old config.
 * Deleting this resource deletes the config item; the lease row stays, with its epoch, so that a cluster that is set up
 * again under the same name can never reuse a fencing number.
 */
export class Cluster extends Construct {
  readonly nodes: ReadonlyMap<string, NodeAccess>;

  constructor(scope: Construct, id: string, props: ClusterProps) {
    super(scope, id);
    const nodes = new Map<string, NodeAccess>();
    for (const node of props.settings.nodes) {
      nodes.set(
        node.name,
        new NodeAccess(this, `Node-${node.name}`, {
          deployment: props.deployment,
          cluster: props.settings.name,
          node: node.name,
          table: props.table,
          bus: props.control.bus,
        }),
      );
    }
    this.nodes = nodes;

    const config = new CustomResource(this, 'Config', {
      resourceType: contract.custom_resource.type,
      // The function itself is the provider: it answers CloudFormation's URL, with no framework in between.
      serviceToken: props.control.configure.function.functionArn,
      // A function that dies without an answer would otherwise hold the deployment for an hour.
      serviceTimeout: Duration.seconds(120),
      // One string, so that every change of the config, however small, is an update of this resource.
      properties: { [contract.custom_resource.config_property]: JSON.stringify(clusterConfig(props.settings)) },
    });
    // Rights first when it is made or changed, so that no function meets an address that it may not move yet; and last
    // when it is removed, because the configure function needs its own to remove the item.
    const { configure, failover, watch } = props.control;
    config.node.addDependency(props.table, configure, failover.role, watch.role);
  }
}

/** The config item's value. Key order is fixed here, so that the same settings always give the same string. */
export function clusterConfig(settings: ClusterSettings): ClusterConfig {
  return {
    cluster: settings.name,
    nodes: settings.nodes.map(({ name, instance, priority }) => ({ name, instance, priority })),
    virtual_ips: settings.virtualIps.map(({ address, vpc, routeTables, createIn }) => ({
      address,
      vpc,
      route_tables: routeTables,
      create_in: createIn,
    })),
    // Left out where there are none: daemons of before this key was known refuse what they do not know.
    ...(settings.ports && { ports: { service: settings.ports.service, health: settings.ports.health } }),
    policy: settings.policy,
  };
}
