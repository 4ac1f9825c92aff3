import { test } from 'node:test';
import { Stack } from 'aws-cdk-lib';
import { Template } from 'aws-cdk-lib/assertions';
import { LeaseTable } from '../lib/lease-table';
import { app } from './sample';

function table(deletionProtection: boolean): Template {
  const stack = new Stack(app());
  new LeaseTable(stack, 'LeaseTable', { tableName: 'leasehold', deletionProtection });
  return Template.fromStack(stack);
}

test('the table is on demand, restorable, keyed by cluster and item, and has nothing that the protocol must not use', () => {
  table(true).templateMatches({
    Resources: {
      LeaseTableF838DEF9: {
        Type: 'AWS::DynamoDB::Table',
        Properties: {
          TableName: 'leasehold',
          BillingMode: 'PAY_PER_REQUEST',
          KeySchema: [
            { AttributeName: 'cluster', KeyType: 'HASH' },
            { AttributeName: 'item', KeyType: 'RANGE' },
          ],
          AttributeDefinitions: [
            { AttributeName: 'cluster', AttributeType: 'S' },
            { AttributeName: 'item', AttributeType: 'S' },
          ],
          PointInTimeRecoverySpecification: { PointInTimeRecoveryEnabled: true },
        },
      },
    },
  });
  const [properties] = Object.values(table(true).findResources('AWS::DynamoDB::Table')).map((r) => r['Properties']);
  for (const never of ['TimeToLiveSpecification', 'GlobalSecondaryIndexes', 'LocalSecondaryIndexes', 'StreamSpecification']) {
    if (never in properties) throw new Error(`${never} must not be set`);
  }
});

test('a protected table outlives its stack, an unprotected one goes with it', () => {
  table(true).hasResource('AWS::DynamoDB::Table', {
    DeletionPolicy: 'Retain',
    UpdateReplacePolicy: 'Retain',
    Properties: { DeletionProtectionEnabled: true },
  });
  table(false).hasResource('AWS::DynamoDB::Table', {
    DeletionPolicy: 'Delete',
    Properties: { DeletionProtectionEnabled: false },
  });
});
