import * as dynamodb from 'aws-cdk-lib/aws-dynamodb';
import * as events from 'aws-cdk-lib/aws-events';
import * as iam from 'aws-cdk-lib/aws-iam';
import { Construct } from 'constructs';
import { contract } from './contract';

export interface NodeAccessProps {
  readonly deployment: string;
  readonly cluster: string;
  readonly node: string;
  readonly table: dynamodb.ITable;
  readonly bus: events.IEventBus;
}

/**
 * Everything one node may do in AWS: read its own cluster, write its own heartbeat, move its own cluster's lease, put
 * events on the one bus. No route, record, instance or other cluster is within its reach. A captured node can still take
 * its own cluster's lease, and the functions then lead that cluster's addresses to it: no other cluster's, and never
 * anywhere but to the instances that the configuration names as this cluster's nodes.
 *
 * One role per node, not per cluster: `dynamodb:LeadingKeys` can then confine the heartbeat to this node's own key.
 * There is no query or scan, whose results could not be confined by attribute, and no put or delete, which would
 * replace or remove a whole row.
 */
export class NodeAccess extends Construct {
  readonly role: iam.Role;
  readonly instanceProfile: iam.InstanceProfile;

  constructor(scope: Construct, id: string, props: NodeAccessProps) {
    super(scope, id);
    const name = nodeRoleName(props.deployment, props.cluster, props.node);
    this.role = new iam.Role(this, 'Role', {
      roleName: name,
      assumedBy: new iam.ServicePrincipal('ec2.amazonaws.com'),
      description: `leasehold node ${props.node} of cluster ${props.cluster}`,
    });
    this.instanceProfile = new iam.InstanceProfile(this, 'Profile', {
      instanceProfileName: name,
      role: this.role,
    });

    const ownHeartbeat = `${props.cluster}${contract.table.node_key_separator}${props.node}`;
    // Heartbeats are partitions of their own ("web/a"), so the members' heartbeats are read by this pattern. Another
    // cluster's name cannot match it: names hold no "/".
    const anyHeartbeat = `${props.cluster}${contract.table.node_key_separator}*`;

    this.role.addToPolicy(
      new iam.PolicyStatement({
        sid: 'ReadOwnCluster',
        actions: ['dynamodb:GetItem'],
        resources: [props.table.tableArn],
        conditions: {
          // ForAllValues is also true when the request carries no key at all: Null closes that door.
          'ForAllValues:StringLike': { 'dynamodb:LeadingKeys': [props.cluster, anyHeartbeat] },
          Null: { 'dynamodb:LeadingKeys': 'false' },
        },
      }),
    );
    this.role.addToPolicy(this.updateOnly('MoveOwnLease', props, props.cluster, contract.node_may_write.lease));
    this.role.addToPolicy(this.updateOnly('WriteOwnHeartbeat', props, ownHeartbeat, contract.node_may_write.heartbeat));
    this.role.addToPolicy(
      new iam.PolicyStatement({
        sid: 'PutEvents',
        actions: ['events:PutEvents'],
        resources: [props.bus.eventBusArn],
        conditions: { StringEquals: { 'events:source': contract.events.source } },
      }),
    );
  }

  /**
   * UpdateItem on one partition, naming only these attributes. `dynamodb:Attributes` is checked against the attributes
   * named in the request, so a request that asks for the whole item back has to be refused by `dynamodb:ReturnValues`
   * (ReturnValuesOnConditionCheckFailure is another parameter and stays allowed: the node sees what it lost against).
   */
  private updateOnly(sid: string, props: NodeAccessProps, key: string, attributes: readonly string[]): iam.PolicyStatement {
    return new iam.PolicyStatement({
      sid,
      actions: ['dynamodb:UpdateItem'],
      resources: [props.table.tableArn],
      conditions: {
        'ForAllValues:StringEquals': { 'dynamodb:LeadingKeys': [key], 'dynamodb:Attributes': [...attributes] },
        StringEqualsIfExists: { 'dynamodb:ReturnValues': 'NONE' },
        Null: { 'dynamodb:LeadingKeys': 'false', 'dynamodb:Attributes': 'false' },
      },
    });
  }
}

/** Name of a node's role and of its instance profile. */
export function nodeRoleName(deployment: string, cluster: string, node: string): string {
  return `${deployment}-${cluster}-${node}`;
}
