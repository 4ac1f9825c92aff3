import { Duration, RemovalPolicy } from 'aws-cdk-lib';
import * as dynamodb from 'aws-cdk-lib/aws-dynamodb';
import * as events from 'aws-cdk-lib/aws-events';
import * as iam from 'aws-cdk-lib/aws-iam';
import * as lambda from 'aws-cdk-lib/aws-lambda';
import { SqsDestination } from 'aws-cdk-lib/aws-lambda-destinations';
import * as logs from 'aws-cdk-lib/aws-logs';
import * as sqs from 'aws-cdk-lib/aws-sqs';
import { Construct } from 'constructs';
import { contract, FunctionName } from './contract';
import { Architecture, functionZip } from './function-zip';

/**
 * Hints older than this are worthless: the watch function has looked at the row itself by then. Lambda's first retry of
 * a failed run comes a minute after the failure, so it would always be too old: with this age the number of retries of
 * a failed run is 0. Runs that Lambda throttles are not failed runs; they are tried again until this age.
 */
export const MAX_EVENT_AGE = Duration.seconds(60);
export const RETRIES_OF_A_FAILED_RUN = 0;

export interface ControlPlaneFunctionProps {
  readonly deployment: string;
  readonly function: FunctionName;
  readonly description: string;
  /** Folder that holds `<function>.zip`, a zip with the `bootstrap` binary. */
  readonly assets: string;
  readonly architecture: Architecture;
  readonly timeout: Duration;
  readonly logRetention: logs.RetentionDays;
  readonly table: dynamodb.ITable;
  readonly bus: events.IEventBus;
  /** Names of the deployment's clusters. */
  readonly clusters: readonly string[];
  /** Where an asynchronous invocation goes that failed or grew too old. */
  readonly failures?: sqs.IQueue;
}

/**
 * One Rust function from its pre-built zip, with its own role and log group. The role starts with the right to write
 * that log group and nothing else: whoever needs more grants it next to the reason.
 */
export class ControlPlaneFunction extends Construct {
  readonly function: lambda.Function;
  readonly role: iam.Role;

  constructor(scope: Construct, id: string, props: ControlPlaneFunctionProps) {
    super(scope, id);
    const name = functionName(props.deployment, props.function);
    // Destroyed with the stack: the history of decisions is in the table, not in these logs.
    const logGroup = new logs.LogGroup(this, 'Logs', {
      logGroupName: `/aws/lambda/${name}`,
      retention: props.logRetention,
      removalPolicy: RemovalPolicy.DESTROY,
    });
    // Not AWSLambdaBasicExecutionRole: that managed policy may write every log group of the account.
    this.role = new iam.Role(this, 'Role', {
      assumedBy: new iam.ServicePrincipal('lambda.amazonaws.com'),
      description: `${name}: ${props.description}`,
    });
    logGroup.grantWrite(this.role);

    this.function = new lambda.Function(this, 'Function', {
      functionName: name,
      description: props.description,
      runtime: lambda.Runtime.PROVIDED_AL2023,
      architecture: props.architecture === 'arm64' ? lambda.Architecture.ARM_64 : lambda.Architecture.X86_64,
      handler: 'bootstrap',
      code: lambda.Code.fromAsset(functionZip(props.assets, props.function, props.architecture)),
      memorySize: 128,
      timeout: props.timeout,
      role: this.role,
      logGroup,
      environment: {
        [contract.environment.table]: props.table.tableName,
        [contract.environment.bus]: props.bus.eventBusName,
        // The functions have no right to scan the table, so they are told whom to look after; an event of EC2 names an
        // instance, not a cluster.
        [contract.environment.clusters]: props.clusters.join(','),
      },
      maxEventAge: MAX_EVENT_AGE,
      retryAttempts: RETRIES_OF_A_FAILED_RUN,
      onFailure: props.failures && new SqsDestination(props.failures),
    });
  }
}

export function functionName(deployment: string, name: FunctionName): string {
  return `${deployment}-${name}`;
}
