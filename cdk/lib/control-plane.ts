import { Duration, Stack } from 'aws-cdk-lib';
import * as dynamodb from 'aws-cdk-lib/aws-dynamodb';
import * as events from 'aws-cdk-lib/aws-events';
import * as targets from 'aws-cdk-lib/aws-events-targets';
import * as iam from 'aws-cdk-lib/aws-iam';
import * as logs from 'aws-cdk-lib/aws-logs';
import * as sqs from 'aws-cdk-lib/aws-sqs';
import { Construct } from 'constructs';
import { contract } from './contract';
import { ControlPlaneFunction, MAX_EVENT_AGE } from './control-plane-function';
import type { Architecture } from './function-zip';

/** What the functions may act on, summed over all clusters of the deployment. */
export interface Reach {
  /** EC2's own events wake the failover function for these instances only. */
  readonly instances: readonly string[];
  /** The only route tables that the functions may change. */
  readonly routeTables: readonly string[];
  /** The nodes' network interfaces, whose source/destination check the functions may switch off. */
  readonly networkInterfaces: readonly string[];
  /** The instances that failover may stop by force when an operator asks for it; none unless the file allows it. */
  readonly stoppable: readonly string[];
}

export interface ControlPlaneProps {
  readonly deployment: string;
  readonly table: dynamodb.ITable;
  /** Names of the deployment's clusters. */
  readonly clusters: readonly string[];
  readonly reach: Reach;
  readonly assets: string;
  readonly architecture: Architecture;
  readonly logRetention: logs.RetentionDays;
}

/** An event pattern holds at most 2,048 characters; an instance id takes 22 of them with its quotes and comma. */
export const INSTANCES_PER_RULE = 80;

/**
 * The deciding side: the bus, the three functions, and everything that wakes them.
 *
 * ```text
 *   nodes ── leasehold bus ──► failover ◄── default bus (EC2: instance stopped/terminated, spot warning;
 *                                                        AWS Health: retirement, reboot scheduled)
 *   every minute ────────────► watch
 *   CloudFormation ──────────► configure
 * ```
 *
 * Every event is only a hint to read the row again, so nothing here rests on order, on exactly-once delivery or on
 * reserved concurrency. What could not be delivered or failed ends in one queue, where it can be seen.
 */
export class ControlPlane extends Construct {
  readonly bus: events.EventBus;
  readonly failover: ControlPlaneFunction;
  readonly watch: ControlPlaneFunction;
  readonly configure: ControlPlaneFunction;
  readonly failures: sqs.Queue;

  constructor(scope: Construct, id: string, props: ControlPlaneProps) {
    super(scope, id);

    this.bus = new events.EventBus(this, 'Bus', { eventBusName: props.deployment });
    this.failures = new sqs.Queue(this, 'Failures', {
      queueName: `${props.deployment}-failures`,
      encryption: sqs.QueueEncryption.SQS_MANAGED,
      enforceSSL: true,
      retentionPeriod: Duration.days(14),
    });

    const shared = {
      deployment: props.deployment,
      assets: props.assets,
      architecture: props.architecture,
      logRetention: props.logRetention,
      table: props.table,
      bus: this.bus,
      clusters: props.clusters,
    };
    this.failover = new ControlPlaneFunction(this, 'Failover', {
      ...shared,
      function: 'failover',
      description: 'decides who serves and makes the network match',
      timeout: Duration.seconds(60),
      failures: this.failures,
    });
    this.watch = new ControlPlaneFunction(this, 'Watch', {
      ...shared,
      function: 'watch',
      description: 'looks at every cluster each minute and corrects drift',
      // Shorter than the schedule, so that a run which hangs does not meet its successor.
      timeout: Duration.seconds(50),
      failures: this.failures,
    });
    this.configure = new ControlPlaneFunction(this, 'Configure', {
      ...shared,
      function: 'configure',
      description: 'checks a cluster\'s configuration and stores it',
      timeout: Duration.seconds(30),
      // No failure queue: CloudFormation itself waits for this function's answer and reports when none comes.
    });

    for (const decider of [this.failover, this.watch]) {
      this.grantDecisions(decider, props);
      this.grantNetwork(decider, props.reach);
    }
    this.grantForceStop(this.failover, props.reach.stoppable);
    this.grantConfiguration(this.configure, props);

    this.wakeFailoverByNodes();
    this.wakeFailoverByEc2(props.reach.instances);
    if (props.reach.instances.length > 0) this.wakeFailoverByHealth();
    this.wakeWatchEachMinute();
  }

  private grantDecisions(to: ControlPlaneFunction, props: ControlPlaneProps): void {
    to.role.addToPolicy(
      new iam.PolicyStatement({
        sid: 'DecideAndRecord',
        // PutItem only adds history items; the row and the configs are changed by conditional UpdateItem.
        actions: ['dynamodb:GetItem', 'dynamodb:Query', 'dynamodb:UpdateItem', 'dynamodb:PutItem'],
        resources: [props.table.tableArn],
      }),
    );
    to.role.addToPolicy(
      new iam.PolicyStatement({
        sid: 'PutEvents',
        actions: ['events:PutEvents'],
        resources: [this.bus.eventBusArn],
        conditions: { StringEquals: { 'events:source': contract.events.source } },
      }),
    );
  }

  private grantNetwork(to: ControlPlaneFunction, reach: Reach): void {
    to.role.addToPolicy(
      new iam.PolicyStatement({
        sid: 'SeeNetwork',
        actions: [
          'ec2:DescribeRouteTables',
          'ec2:DescribeInstances',
          'ec2:DescribeNetworkInterfaces',
          'ec2:DescribeVpcs',
          'ec2:DescribeSubnets',
        ],
        // '*' because EC2's Describe actions know no resource-level permissions: any narrower resource denies them.
        resources: ['*'],
      }),
    );
    if (reach.routeTables.length > 0) {
      to.role.addToPolicy(
        new iam.PolicyStatement({
          sid: 'MoveRoutes',
          actions: ['ec2:ReplaceRoute', 'ec2:CreateRoute'],
          resources: reach.routeTables.map((id) => ec2Arn(this, 'route-table', id)),
        }),
      );
    }
    if (reach.networkInterfaces.length > 0) {
      to.role.addToPolicy(
        new iam.PolicyStatement({
          sid: 'SourceDestCheck',
          actions: ['ec2:ModifyNetworkInterfaceAttribute'],
          resources: reach.networkInterfaces.map((id) => ec2Arn(this, 'network-interface', id)),
        }),
      );
    }
  }

  /** For `failover` with `force_stop`, which only an operator asks for: watch decides nothing that needs it. */
  private grantForceStop(to: ControlPlaneFunction, instances: readonly string[]): void {
    if (instances.length === 0) return;
    to.role.addToPolicy(
      new iam.PolicyStatement({
        sid: 'StopByForce',
        actions: ['ec2:StopInstances'],
        resources: instances.map((id) => ec2Arn(this, 'instance', id)),
      }),
    );
  }

  private grantConfiguration(to: ControlPlaneFunction, props: ControlPlaneProps): void {
    to.role.addToPolicy(
      new iam.PolicyStatement({
        sid: 'StoreConfig',
        // Not confined to the configured clusters' keys: a cluster taken out of the file is deleted after this policy
        // has been updated, when its key would no longer be listed.
        actions: ['dynamodb:GetItem', 'dynamodb:UpdateItem', 'dynamodb:DeleteItem'],
        resources: [props.table.tableArn],
      }),
    );
    to.role.addToPolicy(
      new iam.PolicyStatement({
        sid: 'SeeNetwork',
        actions: ['ec2:DescribeVpcs', 'ec2:DescribeRouteTables'],
        // '*' because EC2's Describe actions know no resource-level permissions: any narrower resource denies them.
        resources: ['*'],
      }),
    );
  }

  private wakeFailoverByNodes(): void {
    new events.Rule(this, 'NodeEvents', {
      eventBus: this.bus,
      description: 'a node suspects the holder, asks to be relieved or has joined',
      eventPattern: { source: [contract.events.source], detailType: contract.events.wake_failover },
      targets: [this.target(this.failover)],
    });
  }

  private wakeFailoverByEc2(instances: readonly string[]): void {
    chunks([...instances].sort(), INSTANCES_PER_RULE).forEach((ids, index) => {
      const nth = index === 0 ? '' : String(index + 1);
      new events.Rule(this, `InstanceState${nth}`, {
        description: 'a node\'s instance has stopped or is gone: proof of death',
        eventPattern: {
          source: [contract.events.aws_source],
          detailType: [contract.events.instance_state],
          detail: { state: contract.events.instance_states, 'instance-id': ids },
        },
        targets: [this.target(this.failover)],
      });
      new events.Rule(this, `SpotWarning${nth}`, {
        description: 'a node\'s spot instance will be interrupted: hand over while it lives',
        eventPattern: {
          source: [contract.events.aws_source],
          detailType: [contract.events.spot_warning],
          // By id in the detail: the ARN in this event's `resources` is malformed.
          detail: { 'instance-id': ids },
        },
        targets: [this.target(this.failover)],
      });
    });
  }

  private wakeFailoverByHealth(): void {
    new events.Rule(this, 'ScheduledChange', {
      description: 'AWS will retire, stop or reboot an instance: hand over while it lives',
      eventPattern: {
        source: [contract.events.health_source],
        detailType: [contract.events.health_event],
        // Not by instance: these events are rare, and the function tells its own instances from others.
        detail: { service: [contract.events.health_service], eventTypeCategory: [contract.events.health_category] },
      },
      targets: [this.target(this.failover)],
    });
  }

  private wakeWatchEachMinute(): void {
    new events.Rule(this, 'EachMinute', {
      description: 'the backstop looks at every cluster',
      schedule: events.Schedule.rate(Duration.minutes(1)),
      targets: [this.target(this.watch)],
    });
  }

  private target(of: ControlPlaneFunction): targets.LambdaFunction {
    return new targets.LambdaFunction(of.function, {
      maxEventAge: MAX_EVENT_AGE,
      // How often EventBridge tries to hand the event to Lambda within that age, not how often a failed run is repeated.
      retryAttempts: 8,
      deadLetterQueue: this.failures,
    });
  }
}

function ec2Arn(scope: Construct, resource: 'route-table' | 'network-interface' | 'instance', id: string): string {
  return Stack.of(scope).formatArn({ service: 'ec2', resource, resourceName: id });
}

function chunks<T>(all: readonly T[], size: number): T[][] {
  const parts: T[][] = [];
  for (let at = 0; at < all.length; at += size) parts.push(all.slice(at, at + size));
  return parts;
}
