import { RemovalPolicy } from 'aws-cdk-lib';
import * as dynamodb from 'aws-cdk-lib/aws-dynamodb';
import { Construct } from 'constructs';
import { contract } from './contract';

export interface LeaseTableProps {
  readonly tableName: string;
  /** true: DynamoDB refuses to delete the table, and destroying the stack leaves it behind. */
  readonly deletionProtection: boolean;
}

/**
 * The one table of a deployment: lease rows, cluster configs, heartbeats, history.
 *
 * On demand, because a failover must not meet a capacity limit that was sized for a quiet day. No TTL attribute, no
 * index, no stream: the protocol uses single-item conditional writes only, so that the same schema can run on a table
 * with multi-Region strong consistency. Encryption is DynamoDB's default (a key owned by AWS): the row holds no
 * secret, and a customer key would put KMS on the path of every lease renewal.
 */
export class LeaseTable extends Construct {
  readonly table: dynamodb.Table;

  constructor(scope: Construct, id: string, props: LeaseTableProps) {
    super(scope, id);
    this.table = new dynamodb.Table(this, 'Table', {
      tableName: props.tableName,
      partitionKey: { name: contract.table.partition_key, type: dynamodb.AttributeType.STRING },
      sortKey: { name: contract.table.sort_key, type: dynamodb.AttributeType.STRING },
      billingMode: dynamodb.BillingMode.PAY_PER_REQUEST,
      pointInTimeRecoverySpecification: { pointInTimeRecoveryEnabled: true },
      deletionProtection: props.deletionProtection,
      removalPolicy: props.deletionProtection ? RemovalPolicy.RETAIN : RemovalPolicy.DESTROY,
    });
  }
}
